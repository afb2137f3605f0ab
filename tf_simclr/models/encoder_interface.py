"""Finds an encoder's input and output shapes before training, for any kind of Keras model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError, brief
from tf_simclr.models.keras_internals import is_functional
from tf_simclr.stack import keras

_SMALLEST_SCALE = 0.1  # Rescaling(1 / 255) is far below, any adjustment of contrast above.


def interface_of(encoder: keras.layers.Layer) -> tuple[tf.TensorSpec, tuple[None, int]]:
    """Finds an encoder's input and output, and checks that it can be trained on images.

    Args:
      encoder: as in `encoder_shapes`.

    Returns:
      (spec of the images, [None, H, W, C] float32; shape of h, (None, D)). H and W are None if the
      encoder takes images of any size, even if it was built on one size.

    Raises:
      UserError: as `encoder_shapes`; or it takes integers, or divides images in [0, 1] by 255.
    """
    taken, given = encoder_shapes(encoder)
    for tensor in getattr(encoder, "inputs", None) or []:
        if not tensor.dtype.is_floating:
            raise UserError(
                f"encoder must take float images in [0, 1]; the input of {encoder.name!r} is "
                f"{tensor.dtype.name}. Begin it with tf.keras.Input(shape) and leave out its own "
                "scaling to [0, 1]."
            )
    _check_scale(encoder)
    if _takes_any_size(encoder, taken, given):
        taken = (None, None, None, taken[-1])
    return tf.TensorSpec(taken, tf.float32, "images"), given


def encoder_shapes(encoder: keras.layers.Layer) -> tuple[tuple, tuple]:
    """The input and output shapes of an encoder.

    Functional models, and Sequential ones with an input, know their shapes. Other models and layers
    are traced on images of the shape that they were built for, so they must have been called once.

    Args:
      encoder: a Keras model or layer, built.

    Returns:
      ((None, H, W, C), (None, D)). H and W are None if a functional model takes any size; for
      other models they are those of the images that the model was first called on.

    Raises:
      UserError: it is not a Keras layer, was never built, does not map one tensor of images to one
        [N, D] tensor, or leaves C or D open.
    """
    if not isinstance(encoder, keras.layers.Layer):
        raise UserError(
            "encoder must be a tf.keras model or layer from images to vectors [N, D]; received "
            f"{encoder!r:.200}."
        )
    taken = _input_shape(encoder)
    functional = is_functional(encoder)
    h = encoder.output if functional else trace_on_images(encoder, taken).structured_outputs
    outputs = tf.nest.map_structure(lambda x: x.shape, h)
    if not isinstance(outputs, tf.TensorShape):
        raise UserError(
            f"encoder must have one output, vectors [N, D]; {encoder.name!r} has {outputs}. Give "
            "the model with only the output to train: tf.keras.Model(inputs, h)."
        )
    if outputs.rank != 2:
        raise UserError(
            f"encoder must map images to vectors [N, D]; its output shape is {tuple(outputs)}. "
            "End it with global average pooling."
        )
    if taken[-1] is None or outputs[1] is None:
        raise UserError(
            "encoder must have a known number of channels and of features; received "
            f"{encoder.name!r} with input and output shapes {taken} and {tuple(outputs)}."
        )
    return taken, (None, outputs[1])


def trace_on_images(encoder: keras.layers.Layer, shape: Sequence[int | None]):
    """Traces an encoder in inference mode, which fails if images are too small for it.

    Args:
      encoder: a Keras model or layer.
      shape: (N, H, W, C). With H and W known, layers fail whose output would have no pixels.

    Returns:
      A concrete function from float32 images of that shape to h.

    Raises:
      UserError: the encoder fails on such images; the message gives the reason.
    """
    try:
        function = tf.function(lambda images: encoder(images, training=False))
        return function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    except Exception as error:  # The caller's own layers can fail in any way.
        raise UserError(
            f"encoder {encoder.name!r} fails on images of {' x '.join(map(str, shape[1:-1]))} "
            f"pixels: {brief(error)}"
        ) from error


def build_head(head: keras.layers.Layer, h: tuple[None, int]) -> None:
    """Builds the projection head, unless it is built, and checks its output.

    Raises:
      UserError: it is not a Keras layer, or does not map h [N, D] to one [N, any] tensor.
    """
    if not isinstance(head, keras.layers.Layer):
        raise UserError(
            f"projection_head must be a tf.keras layer from h to z; received {head!r:.200}."
        )
    if not head.built:
        with tf.name_scope(head.name):
            head.build(h)
    z = _output_of(head, tf.TensorSpec(h))
    if not isinstance(z, tf.TensorShape) or z.rank != 2:
        raise UserError(
            f"projection_head must map h [N, {h[1]}] to one tensor z [N, D]; its output is {z}."
        )


def _input_shape(encoder) -> tuple:
    """(None, H, W, C)"""
    inputs = getattr(encoder, "inputs", None)  # A list for functional models, else None.
    if inputs is not None:
        shapes = [tuple(x.shape) for x in inputs]
    else:
        built = (encoder.get_build_config() or {}).get("input_shape")
        if built is None:
            raise UserError(
                f"encoder {encoder.name!r} has not been built, so its output is unknown. Call it "
                "once on a batch of zeros, such as encoder(tf.zeros([1, 32, 32, 3])), or begin it "
                "with tf.keras.Input."
            )
        shapes = _shapes_in(built)
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(
            "encoder must have one input, images [N, H, W, C]; "
            f"{encoder.name!r} takes {', '.join(map(str, shapes))}."
        )
    return (None, *shapes[0][1:])


def _takes_any_size(encoder, taken: tuple, given: tuple) -> bool:
    """Whether an encoder without a declared input also takes other image sizes than `taken`."""
    deferred = isinstance(encoder, keras.Sequential) and is_functional(encoder)
    deferred = deferred and not encoder._has_explicit_input_shape
    if None in taken[1:] or not (deferred or getattr(encoder, "inputs", None) is None):
        return False

    def through_layers(images):
        """Avoids the `call` of a Sequential model, which would change the input it declares."""
        return functools.reduce(lambda x, layer: layer(x), encoder.layers, images)

    traced = tf.function(through_layers if deferred else lambda x: encoder(x, training=False))
    _, height, width, channels = taken
    # An unknown size is not enough: Dense after Flatten would be traced without an error.
    for size in ((2 * height, 2 * width), (None, None)):
        images = tf.TensorSpec([None, *size, channels], tf.float32)
        try:
            h = traced.get_concrete_function(images).structured_outputs
            if h.shape.as_list() != list(given):
                return False
        except Exception:  # The caller's own layers can fail in any way.
            return False
    return True


def _shapes_in(structure) -> list[tuple]:
    """The input shapes in a build config: a single one, or several in a structure."""
    if isinstance(structure, dict):
        return [shape for part in structure.values() for shape in _shapes_in(part)]
    if all(isinstance(size, int) or size is None for size in structure):
        return [tuple(structure)]
    return [shape for part in structure for shape in _shapes_in(part)]


def _output_of(head, spec):
    """The shape of a projection head's output, or a structure of shapes."""
    traced = tf.function(lambda x: head(x, training=False), autograph=False)
    try:
        outputs = traced.get_concrete_function(spec).structured_outputs
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise UserError(
            f"projection_head {head.name!r} cannot be called on {tuple(spec.shape)} "
            f"{spec.dtype.name}: {error}"
        ) from error
    return tf.nest.map_structure(lambda x: x.shape, outputs)


def _check_scale(encoder) -> None:
    """Raises UserError for an encoder that expects 0 to 255, as some of tf.keras.applications do.

    Images in [0, 1] would look almost black to it, and its outputs would be nearly equal.
    """
    # After a layer with weights, Rescaling scales features, as residual branches do.
    first = itertools.takewhile(lambda layer: not layer.weights, _layers_in_order(encoder))
    scales = [x.scale for x in first if isinstance(x, keras.layers.Rescaling)]
    scale = np.prod([np.max(np.abs(scale)) for scale in scales])
    if scale < _SMALLEST_SCALE:
        raise UserError(
            f"encoder {encoder.name!r} scales its input by {scale:.3g} (tf.keras.layers.Rescaling),"
            " but it is given images in [0, 1]. Build it without its own scaling "
            "(include_preprocessing=False, include_rescaling=False), or put "
            "tf.keras.layers.Rescaling(255.0) before it."
        )


def _layers_in_order(model) -> Iterator[keras.layers.Layer]:
    """A functional model's layers in order, nested ones flattened; none for other models."""
    for layer in model.layers if is_functional(model) else ():
        if is_functional(layer):
            yield from _layers_in_order(layer)
        else:
            yield layer
