"""Base encoders by name: our ResNets, keras-cv's backbones and Keras Applications."""

from __future__ import annotations

import numbers

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.models import applications, cv_backbones
from tf_simclr.models.resnet import BLOCKS, resnet
from tf_simclr.stack import keras

_RESNETS = {f"resnet{depth}": depth for depth in BLOCKS}
_OTHERS = {
    name: (source.build, smallest)
    for source in (cv_backbones, applications)
    for name, smallest in source.SMALLEST_IMAGE.items()
}

ENCODERS = tuple(sorted([*_RESNETS, *_OTHERS]))


def build_encoder(
    name: str,
    *,
    image_size: int = 224,
    channels: int = 3,
    width_multiplier: float = 1,
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
    batch_norm_decay: float = 0.9,
) -> keras.Model:
    """Builds an encoder with random weights. Any other Keras model can be used instead.

    Args:
      name: one of `ENCODERS`.
      image_size: side of the images. It decides the stem of our ResNets; some others need at least
        29 to 32 pixels.
      width_multiplier, sk_ratio, se_ratio, batch_norm_decay: as in `resnet`, for our ResNets only;
        other encoders have their own decay.
      channels: of the images.

    Returns:
      A functional model from float32 [N, H, W, C] in [0, 1], any size from the smallest on, to
      float32 [N, D].

    Raises:
      UserError: unknown name, an option that the encoder does not have, or images too small for it;
        or a keras-cv backbone where keras-cv uses Keras 3.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    if name in _RESNETS:
        return resnet(
            _RESNETS[name],
            image_size=image_size,
            channels=channels,
            width_multiplier=width_multiplier,
            sk_ratio=sk_ratio,
            se_ratio=se_ratio,
            batch_norm_decay=batch_norm_decay,
            name=name,
        )
    for option, value, default in (
        ("width_multiplier", width_multiplier, 1),
        ("sk_ratio", sk_ratio, 0),
        ("se_ratio", se_ratio, 0),
        ("batch_norm_decay", batch_norm_decay, 0.9),
    ):
        if value != default:
            raise UserError(
                f"encoder {name!r} has no {option}; received {value!r}. Leave it at {default}, or "
                "choose one of our ResNets."
            )
    if not isinstance(channels, numbers.Integral) or channels < 1:
        raise UserError(f"channels must be at least 1; received {channels!r}.")
    build, smallest = _OTHERS[name]
    if not isinstance(image_size, numbers.Integral) or image_size < smallest:
        raise UserError(
            f"encoder {name!r} needs images of at least {smallest} pixel(s); received "
            f"image_size={image_size!r}. Use larger images or another encoder, such as resnet18."
        )
    return build(name, channels)


def imagenet_encoder(name: str) -> keras.Model:
    """An encoder of Keras Applications with Keras' ImageNet weights, for RGB images.

    Args:
      name: one of `ENCODERS`.

    Returns:
      What `build_encoder` builds, with these weights.

    Raises:
      UserError: there are none for this encoder, or they cannot be downloaded or read.
    """
    if name not in applications.SMALLEST_IMAGE:
        raise UserError(
            f"there are no ImageNet weights for --encoder={name}. Choose one of Keras' networks: "
            f"{', '.join(applications.SMALLEST_IMAGE)}."
        )
    return applications.build(name, channels=3, weights="imagenet")


def endpoint_tensors(encoder: keras.Model) -> dict[str, tf.Tensor]:
    """An encoder's intermediate tensors, by name.

    Args:
      encoder: a functional model. For our ResNets these are the stem and every block group; for
        others the last image-shaped tensor of every resolution, called level1, level2, ...

    Returns:
      Keras tensors by name; "final_avg_pool" is h.
    """
    named = [
        layer
        for layer in encoder.layers
        if layer.name.startswith("block_group")
        or layer.name in ("initial_conv", "initial_max_pool")
    ]
    if named:
        found = {layer.name: layer.output for layer in named}
    else:
        found = {f"level{i}": tensor for i, tensor in enumerate(_last_of_each_size(encoder), 1)}
    return {**found, "final_avg_pool": encoder.output}


def _last_of_each_size(encoder) -> list:
    """The last [N, H, W, C] tensor at every resolution, largest first."""
    sizes = {}
    # Not `layer.output`: that of a nested model belongs to its own graph, that of a shared layer is
    # ambiguous.
    nodes = [
        node for depth in sorted(encoder._nodes_by_depth) for node in encoder._nodes_by_depth[depth]
    ]
    outputs = [
        t for node in reversed(nodes) if not node.is_input for t in tf.nest.flatten(node.outputs)
    ]
    tensors = [tensor for tensor in outputs if tensor.shape.rank == 4]
    if not tensors:
        return []
    height, width, channels = encoder.input_shape[1:]
    images = keras.Input([height or 256, width or 256, channels])
    # Traced, because Keras' compute_output_shape fails on TensorFlow operations such as `x * 2`.
    found = tf.nest.flatten(keras.Model(encoder.input, tensors)(images))
    for tensor, fixed in zip(tensors, found):
        sizes[tuple(fixed.shape[1:3])] = tensor
    return list(sizes.values())
