"""Base encoders by name: our ResNets, and keras-cv's backbones with global average pooling.

keras-cv's named backbones download their configuration even without weights. Here they are built
from the stacks in their papers, without network access.
"""

from __future__ import annotations

import numbers

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.models.resnet import BLOCKS, resnet
from tf_simclr.stack import keras

_RESNETS = {f"resnet{depth}": depth for depth in BLOCKS}

# Tan & Le 2021, arXiv:2104.00298, table 4 (S) and appendix; B0 to B3 as in Keras Applications.
_EFFICIENTNET_V2_STACKS = {
    "b": ((1, 2, 2, 3, 5, 8), (32, 16, 32, 48, 96, 112), (16, 32, 48, 96, 112, 192)),
    "s": ((2, 4, 4, 6, 9, 15), (24, 24, 48, 64, 128, 160), (24, 48, 64, 128, 160, 256)),
    "m": (
        (3, 5, 5, 7, 14, 18, 5),
        (24, 24, 48, 80, 160, 176, 304),
        (24, 48, 80, 160, 176, 304, 512),
    ),
    "l": (
        (4, 7, 7, 10, 19, 25, 7),
        (32, 32, 64, 96, 192, 224, 384),
        (32, 64, 96, 192, 224, 384, 640),
    ),
}
# Name: (stacks, width, depth).
_EFFICIENTNETS_V2 = {
    "efficientnetv2-b0": ("b", 1.0, 1.0),
    "efficientnetv2-b1": ("b", 1.0, 1.1),
    "efficientnetv2-b2": ("b", 1.1, 1.2),
    "efficientnetv2-b3": ("b", 1.2, 1.4),
    "efficientnetv2-s": ("s", 1.0, 1.0),
    "efficientnetv2-m": ("m", 1.0, 1.0),
    "efficientnetv2-l": ("l", 1.0, 1.0),
}
# He et al. 2016, arXiv:1603.05027: pre-activation.
_RESNETS_V2 = {
    f"resnet{depth}v2": ("block" if bottleneck else "basic_block", blocks)
    for depth, (bottleneck, blocks) in BLOCKS.items()
    if 10 < depth < 200
}
# Huang et al. 2017, arXiv:1608.06993, table 1.
_DENSENETS = {
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
    "densenet201": (6, 12, 48, 32),
}

# The pooling between dense blocks would reduce smaller images to nothing.
_SMALLEST_IMAGE = dict.fromkeys(_DENSENETS, 29)

ENCODERS = tuple(sorted([*_RESNETS, *_EFFICIENTNETS_V2, *_RESNETS_V2, *_DENSENETS]))


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
      image_size: side of the images. It decides the stem of our ResNets; DenseNets need 29 pixels.
      width_multiplier, sk_ratio, se_ratio, batch_norm_decay: as in `resnet`, for our ResNets only;
        other encoders have their own decay.
      channels: of the images.

    Returns:
      A functional model from float32 [N, H, W, C] in [0, 1], any size (DenseNets: from 29 pixels),
      to float32 [N, D].

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
    smallest = _SMALLEST_IMAGE.get(name, 1)
    if not isinstance(image_size, numbers.Integral) or image_size < smallest:
        raise UserError(
            f"encoder {name!r} needs images of at least {smallest} pixel(s); received "
            f"image_size={image_size!r}. Use larger images or another encoder, such as resnet18."
        )
    backbone = _backbone(name, include_rescaling=False, input_shape=(None, None, channels))
    pool = keras.layers.GlobalAveragePooling2D(name="final_avg_pool", dtype="float32")
    return keras.Model(backbone.input, pool(backbone.output), name=name)


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


def _backbone(name, **options):
    from keras_cv import models  # Slow to import, needed for its backbones only.

    if not issubclass(models.ResNetV2Backbone, keras.Model):
        raise UserError(
            f"encoder {name!r} is from keras-cv, which uses Keras 3 here, as TensorFlow was "
            "imported before tf_simclr. Import tf_simclr first, or set TF_USE_LEGACY_KERAS=1 "
            "before TensorFlow is imported."
        )
    if name in _EFFICIENTNETS_V2:
        stacks, width, depth = _EFFICIENTNETS_V2[name]
        repeats, filters_in, filters_out = _EFFICIENTNET_V2_STACKS[stacks]
        late = len(repeats) - 3  # The first three stacks are fused, without squeeze-excitation.
        return models.EfficientNetV2Backbone(
            width_coefficient=width,
            depth_coefficient=depth,
            stackwise_kernel_sizes=[3] * len(repeats),
            stackwise_num_repeats=list(repeats),
            stackwise_input_filters=list(filters_in),
            stackwise_output_filters=list(filters_out),
            stackwise_expansion_ratios=[1, 4, 4, 4] + [6] * (late - 1),
            stackwise_squeeze_and_excite_ratios=[0.0] * 3 + [0.25] * late,
            stackwise_strides=[1, 2, 2, 2, 1, 2] + [1] * (late - 3),
            stackwise_conv_types=["fused"] * 3 + ["unfused"] * late,
            **options,
        )
    if name in _RESNETS_V2:
        block_type, blocks = _RESNETS_V2[name]
        return models.ResNetV2Backbone(
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=list(blocks),
            stackwise_strides=[1, 2, 2, 2],
            block_type=block_type,
            **options,
        )
    return models.DenseNetBackbone(stackwise_num_repeats=list(_DENSENETS[name]), **options)
