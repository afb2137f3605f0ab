"""What an encoder maps to what: found out before any training, for every kind of Keras model."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError

_SMALLEST_SCALE = 0.1  # Rescaling(1 / 255) lies far below it, any adjustment of contrast above.


def interface_of(encoder: tf.keras.layers.Layer) -> tuple[tf.TensorSpec, tuple[None, int]]:
    """Finds out what images an encoder takes, and how long its vectors h are.

    Functional models and Sequential ones with an input say so themselves. Other models and layers
    are traced on images of the shape that they were built for, so they must have been called once.

    Args:
      encoder: a Keras model or layer, built.

    Returns:
      (the images, [None, H, W, C] float32, where H and W are None if the encoder takes any size;
      the shape of h, (None, D)).

    Raises:
      UserError: it is not a Keras layer, was never built, does not map one tensor of images to one
        [N, D] tensor, or divides images in [0, 1] by 255.
    """
    if not isinstance(encoder, tf.keras.layers.Layer):
        raise UserError(
            "encoder must be a tf.keras model or layer from images to vectors [N, D]; received "
            f"{encoder!r:.200}."
        )
    images = _images_of(encoder)
    outputs = _outputs_of(encoder, images)
    if not isinstance(outputs, tf.TensorShape):
        raise UserError(
            f"encoder must have one output, vectors [N, D]; {encoder.name!r} has {outputs}. Give "
            "the model with only the output to train: tf.keras.Model(inputs, h)."
        )
    if outputs.rank != 2 or outputs[1] is None:
        raise UserError(
            f"encoder must map images to vectors [N, D]; its output shape is {tuple(outputs)}. "
            "End it with global average pooling."
        )
    _check_scale(encoder)
    return images, (None, outputs[1])


def build_head(head: tf.keras.layers.Layer, h: tuple[None, int]) -> None:
    """Builds the projection head, if it is not built, and checks what it returns.

    Raises:
      UserError: it is not a Keras layer, or does not map h [N, D] to one [N, any] tensor.
    """
    if not isinstance(head, tf.keras.layers.Layer):
        raise UserError(
            f"projection_head must be a tf.keras layer from h to z; received {head!r:.200}."
        )
    if not head.built:
        with tf.name_scope(head.name):
            head.build(h)
    z = _traced(head, tf.TensorSpec(h), "projection_head")
    if not isinstance(z, tf.TensorShape) or z.rank != 2:
        raise UserError(
            f"projection_head must map h [N, {h[1]}] to one tensor z [N, D]; its output is {z}."
        )


def _images_of(encoder) -> tf.TensorSpec:
    inputs = getattr(encoder, "inputs", None)  # A list for functional models, else None.
    if inputs is None:
        shapes = (encoder.get_build_config() or {}).get("input_shape")
        if shapes is None:
            raise UserError(
                f"encoder {encoder.name!r} has not been built, so its output is unknown. Call it "
                "once on a batch of zeros, such as encoder(tf.zeros([1, 32, 32, 3])), or begin it "
                "with tf.keras.Input."
            )
        inputs = [tf.TensorSpec(shape) for shape in _shapes_in(shapes)]
    shapes = [tuple(x.shape) for x in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4:
        raise UserError(
            "encoder must have one input, images [N, H, W, C]; "
            f"{encoder.name!r} takes {', '.join(map(str, shapes))}."
        )
    if not inputs[0].dtype.is_floating:
        raise UserError(
            f"encoder must take float images in [0, 1]; the input of {encoder.name!r} is "
            f"{inputs[0].dtype.name}. Begin it with tf.keras.Input(shape) and leave out its own "
            "scaling to [0, 1]."
        )
    return tf.TensorSpec([None, *shapes[0][1:]], tf.float32, "images")


def _shapes_in(structure) -> list[tuple]:
    """The shapes in what `get_build_config` has of an input: one, or several in a structure."""
    if isinstance(structure, dict):
        return [shape for part in structure.values() for shape in _shapes_in(part)]
    if all(isinstance(size, int) or size is None for size in structure):
        return [tuple(structure)]
    return [shape for part in structure for shape in _shapes_in(part)]


def _outputs_of(encoder, images):
    if getattr(encoder, "inputs", None) is None:
        return _traced(encoder, images, "encoder")
    return tf.nest.map_structure(lambda x: x.shape, encoder.output)


def _traced(layer, spec, role):
    """The shape of what a layer returns, or a structure of shapes."""
    trace = tf.function(lambda x: layer(x, training=False), autograph=False)
    try:
        outputs = trace.get_concrete_function(spec).structured_outputs
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise UserError(
            f"{role} {layer.name!r} cannot be called on {tuple(spec.shape)} {spec.dtype.name}: "
            f"{error}"
        ) from error
    return tf.nest.map_structure(lambda x: x.shape, outputs)


def _check_scale(encoder) -> None:
    """Refuses an encoder that takes 0 to 255, such as those of tf.keras.applications.

    Given [0, 1] it sees almost black images, and its vectors are nearly the same.
    """
    layers = [encoder, *encoder.submodules]
    scales = [x.scale for x in layers if isinstance(x, tf.keras.layers.Rescaling)]
    scale = np.prod([np.max(np.abs(scale)) for scale in scales])
    if scale < _SMALLEST_SCALE:
        raise UserError(
            f"encoder {encoder.name!r} scales its input by {scale:.3g} (tf.keras.layers.Rescaling),"
            " but it is given images in [0, 1]. Build it without its own scaling "
            "(include_preprocessing=False, include_rescaling=False)."
        )
