"""keras-cv's backbones, with global average pooling.

keras-cv's named backbones download their configuration even without weights. Here they are built
from the stacks in their papers, without network access.
"""

from __future__ import annotations

from tf_simclr.errors import UserError
from tf_simclr.models.resnet import BLOCKS
from tf_simclr.stack import keras

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

# {name: side of the smallest image}: pooling between dense blocks would reduce smaller ones to
# nothing.
SMALLEST_IMAGE = {
    **dict.fromkeys((*_EFFICIENTNETS_V2, *_RESNETS_V2), 1),
    **dict.fromkeys(_DENSENETS, 29),
}


def build(name: str, channels: int) -> keras.Model:
    """Builds a backbone with random weights, from images in [0, 1] of any size to vectors.

    Args:
      name: one of `SMALLEST_IMAGE`.
      channels: of the images.

    Raises:
      UserError: keras-cv uses Keras 3.
    """
    backbone = _backbone(name, include_rescaling=False, input_shape=(None, None, channels))
    pool = keras.layers.GlobalAveragePooling2D(name="final_avg_pool", dtype="float32")
    return keras.Model(backbone.input, pool(backbone.output), name=name)


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
