"""Encoders of Keras Applications, under the names of its functions, and their ImageNet weights.

Each encoder scales images from [0, 1] to what its ImageNet weights expect, also when its weights
are random: with the same scaling for both, ImageNet weights fit any of these encoders.

Left out: networks whose weights expect BGR images (VGG, ResNet without V2), those that take images
of one size (NASNet), and EfficientNet B0 to B7, to which Keras adds a layer for ImageNet weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_simclr.errors import UserError, brief
from tf_simclr.stack import keras

_OWN = {"scale": 255.0}  # The network has its own scaling, from [0, 255].
# By the `mode` of keras.applications.imagenet_utils.preprocess_input, from [0, 1]: "tf" to [-1, 1],
# "torch" to mean 0 and deviation 1 over ImageNet.
_TF = {"scale": 2.0, "offset": -1.0}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TORCH = {
    "scale": [1 / deviation for deviation in _DEVIATION],
    "offset": [-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION)],
}
# (names, scaling, side of the smallest image), by family.
_FAMILIES = (
    ([f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")], _OWN, 32),
    ([f"DenseNet{depth}" for depth in (121, 169, 201)], _TORCH, 29),
    ([f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")], _OWN, 1),
    (["MobileNet", "MobileNetV2"], _TF, 31),
    (["MobileNetV3Small", "MobileNetV3Large"], _OWN, 31),
    ([f"ResNet{depth}V2" for depth in (50, 101, 152)], _TF, 1),
    (["ResNetRS50"], _OWN, 1),
    (["Xception"], _TF, 7),
)
_SCALING: dict[str, Any] = {name: scaling for names, scaling, _ in _FAMILIES for name in names}
SMALLEST_IMAGE = {name: smallest for names, _, smallest in _FAMILIES for name in names}


def build(name: str, channels: int, weights: str | None = None) -> keras.Model:
    """Builds an encoder from images in [0, 1] of any size to vectors.

    Args:
      name: one of `SMALLEST_IMAGE`.
      channels: of the images. Images that are not RGB are scaled to [-1, 1]; ConvNeXts take them as
        they are.
      weights: None: random; "imagenet": Keras' file of ImageNet weights, which is downloaded once
        to the folder `~/.keras/models`.

    Raises:
      UserError: the ImageNet weights cannot be downloaded or read.
    """
    images = keras.Input([None, None, channels], name="images")
    rgb = channels == 3
    scaling = _SCALING[name] if rgb else _TF
    options = {"include_preprocessing": rgb} if _SCALING[name] is _OWN else {}
    scaled = keras.layers.Rescaling(**scaling, name="scaling")(images)
    make = getattr(keras.applications, name)
    try:
        body = make(
            include_top=False, weights=weights, input_tensor=scaled, pooling="avg", **options
        )
    except Exception as error:
        if weights is None:
            raise
        raise UserError(
            f"the ImageNet weights of {name} cannot be loaded: {brief(error)}. Keras downloads "
            "them to ~/.keras/models. Without a network, copy that folder from a machine where "
            f"tf.keras.applications.{name}(include_top=False) was called once; if a file there is "
            "damaged, remove it."
        ) from error
    if "scaling" not in (layer.name for layer in body.layers):
        _scale_from_unit_range(body)
    # float32 even under mixed precision, because everything downstream measures h.
    h = keras.layers.Activation("linear", dtype="float32", name="final_avg_pool")(body.output)
    return keras.Model(body.input, h, name=name)


def _scale_from_unit_range(body: keras.Model) -> None:
    """Lets a ConvNeXt's own scaling begin from [0, 1] instead of [0, 255].

    ConvNeXts leave out what `input_tensor` was computed with, such as our scaling.
    """
    for layer in body.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.input_mean = np.divide(layer.input_mean, 255).tolist()
            layer.input_variance = np.divide(layer.input_variance, 255**2).tolist()
            layer.build(layer.input_shape)
