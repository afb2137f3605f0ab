"""Finds an encoder's blocks in its graph, where rematerialisation can cut it."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.keras_internals import has_inner_layers
from tf_simclr.stack import keras


def segments_of(encoder: keras.Model) -> list[keras.Model]:
    """Splits an encoder where its blocks begin; the segments share the encoder's weights.

    A residual or dense block begins at a tensor that is read by several layers, or by a layer made
    of layers, if no earlier tensor is read after it.

    Raises:
      UserError: the encoder is not a functional model, or has no such tensor.
    """
    if not hasattr(encoder, "_nodes_by_depth"):
        raise UserError(
            f"rematerialize needs an encoder made as tf.keras.Model(inputs, outputs); received a "
            f"{type(encoder).__name__}."
        )
    nodes = [
        node
        for depth in sorted(encoder._nodes_by_depth, reverse=True)
        for node in encoder._nodes_by_depth[depth]
        if not node.is_input
    ]
    readers: dict[int, list[int]] = {}
    for position, node in enumerate(nodes):
        for tensor in tf.nest.flatten(node.keras_inputs):
            readers.setdefault(id(tensor), []).append(position)
    # `last_read` is the last position where any tensor made so far is read.
    last_read, cuts = max(readers[id(encoder.input)]), []
    for position, node in enumerate(nodes):
        outputs = tf.nest.flatten(node.outputs)
        reading = [reader for tensor in outputs for reader in readers.get(id(tensor), [])]
        begins = len(reading) > 1 or any(has_inner_layers(nodes[i].layer) for i in reading)
        if last_read <= position and begins and len(outputs) == 1:
            cuts.append(outputs[0])
        last_read = max([last_read, *reading])
    if not cuts:
        raise UserError(
            f"rematerialize found no residual blocks in encoder {encoder.name!r}; use "
            "micro_batch_size instead."
        )
    ends = zip([encoder.input, *cuts], [*cuts, encoder.output])
    return [keras.Model(begin, end) for begin, end in ends]
