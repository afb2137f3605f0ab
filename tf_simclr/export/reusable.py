"""The traced encoder, with the interface of Reusable SavedModels."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import layers_of
from tf_simclr.models.keras_internals import weight_penalties
from tf_simclr.stack import keras

_PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


class ReusableEncoder(tf.train.Checkpoint):
    """What becomes the SavedModel; the Keras model itself is kept out of it, only traced.

    Attributes:
      variables, trainable_variables, regularization_losses: as the interface of Reusable
        SavedModels names them; the losses are those of weights only.
      other_variables: those it uses that are not weights of the model: states of random generators.
      serve, serve_training: images -> h, when evaluating and when training. Keras 3's TFSMLayer
        calls functions of one tensor, and by default the one named `serve`.
    """

    def __init__(self, model: keras.Model, images: tf.TensorSpec):
        """Traces the model on images; raises UserError if no other process could run the result."""
        super().__init__()
        self.variables = list(model.variables)
        self.trainable_variables = list(model.trainable_variables)
        self.regularization_losses = []
        penalties = [loss for layer in layers_of(model) for loss in weight_penalties(layer)]
        if penalties:
            self.regularization_losses = [
                tf.function(lambda: tf.add_n([penalty() for penalty in penalties]), [])
            ]

        def call(images, training=False):
            return tf.cast(model(images, training=training), tf.float32)

        self.__call__ = tf.function(call)
        traces = [self.__call__.get_concrete_function(images, training=t) for t in (False, True)]
        used = {id(v): v for trace in traces for v in trace.graph.variables}
        for variable in self.variables:
            used.pop(id(variable), None)
        self.other_variables = list(used.values())
        for trace in traces:
            _check_trace(trace, [*self.variables, *used.values()])
        self.serve = tf.function(lambda x: self.__call__(x, training=False), [images])
        self.serve_training = tf.function(lambda x: self.__call__(x, training=True), [images])


def _check_trace(trace, variables: list[tf.Variable]) -> None:
    graph = trace.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    if _PYTHON_OPS & {node.op for node in nodes}:
        raise UserError(
            "it calls Python code (tf.py_function or tf.numpy_function), which a SavedModel cannot "
            "hold. Use TensorFlow operations instead."
        )
    handles = {id(part.handle) for v in variables for part in getattr(v, "values", [v])}
    if any(x.dtype == tf.resource and id(x) not in handles for x in trace.captured_inputs):
        raise UserError(
            "it uses a resource that is not a variable, such as a lookup table, which is not "
            "exported."
        )
