"""ResNet as in SimCLR's reference: the base encoder f of the paper, and that of SimCLRv2.

A functional Keras model of plain layers, so that its `.keras` file loads without tf_simclr. It
differs from torchvision's and Keras' ResNets as google-research/simclr (tf2/resnet.py) does:
the first block of every group has a projection shortcut, in ResNets without bottlenecks too; the
stride is in the 3x3 convolution; the last gamma of every block starts at 0; padding is symmetric.
He et al. 2015, arXiv:1512.03385; selective kernels: arXiv:1903.06586; ResNet-D: arXiv:1812.01187;
squeeze and excitation: arXiv:1709.01507; ResNet-10: arXiv:1904.04232.
"""

from __future__ import annotations

import math
import numbers

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.stack import keras

layers = keras.layers

BLOCKS = {
    10: (False, (1, 1, 1, 1)),
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
    200: (True, (3, 24, 36, 3)),
}
SMALL_IMAGE = 32  # Images up to this side get a 3x3 stem that keeps the resolution.

_EPSILON = 1e-5
_SK_LEAST_WIDTH = 32


def resnet(
    depth: int,
    *,
    image_size: int = 224,
    channels: int = 3,
    width_multiplier: float = 1,
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
    batch_norm_decay: float = 0.9,
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNet without a classifier.

    Args:
      depth: 10, 18, 34, 50, 101, 152 or 200.
      image_size: decides the stem only; the model takes images of any size.
      channels: of the images.
      width_multiplier: multiplies all widths; may be a fraction.
      sk_ratio: > 0: selective kernels with ResNet-D stem and shortcuts, 0.0625 in SimCLRv2; in
        bottleneck blocks (depth >= 50).
      se_ratio: > 0: squeeze and excitation after each block.
      batch_norm_decay: of the moving statistics.
      name: of the model.

    Returns:
      A model from float32 [N, H, W, C] in [0, 1] to float32 [N, D], D = 512 (10, 18, 34) or 2048
      times the width. Layers initial_conv, initial_max_pool, block_group1 to 4 and final_avg_pool
      mark its endpoints.

    Raises:
      UserError: unknown depth, or a value out of range.
    """
    if depth not in tuple(BLOCKS):
        raise unknown_name("ResNet depth", depth, map(str, BLOCKS))
    for argument, value, kind, low, high in (
        ("image_size", image_size, numbers.Integral, 1, math.inf),
        ("channels", channels, numbers.Integral, 1, math.inf),
        ("width_multiplier", width_multiplier, numbers.Real, 1 / 64, math.inf),
        ("sk_ratio", sk_ratio, numbers.Real, 0, math.inf),
        ("se_ratio", se_ratio, numbers.Real, 0, math.inf),
        ("batch_norm_decay", batch_norm_decay, numbers.Real, 0, 1),
    ):
        _check_number(argument, value, kind, low, high)
    net = _Net(width_multiplier, sk_ratio, se_ratio, batch_norm_decay)
    bottleneck, counts = BLOCKS[depth]
    images = layers.Input([None, None, channels], name="images")
    x = net.stem(images, small=image_size <= SMALL_IMAGE)
    for group, count in enumerate(counts, 1):
        for block in range(count):
            prefix = f"group{group}_block{block + 1}"
            last = f"block_group{group}" if block == count - 1 else f"{prefix}_out"
            strides = 2 if block == 0 and group > 1 else 1
            make = net.bottleneck if bottleneck else net.basic
            x = make(x, net.width(64 * 2 ** (group - 1)), strides, block == 0, prefix, last)
    # float32 even under mixed precision, because everything downstream measures h.
    x = layers.GlobalAveragePooling2D(name="final_avg_pool", dtype="float32")(x)
    return keras.Model(images, x, name=name or f"resnet{depth}")


def _check_number(argument, value, kind, low, high):
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        noun = "an integer" if kind is numbers.Integral else "a number"
        raise UserError(f"{argument} must be {noun}; received {value!r}.")
    if value < low:
        raise UserError(f"{argument} must be at least {low:g}; received {value!r}.")
    if value > high:
        raise UserError(f"{argument} must be at most {high:g}; received {value!r}.")


class _Net:
    """Builds the parts of one ResNet, which share its settings."""

    def __init__(self, width_multiplier, sk_ratio, se_ratio, batch_norm_decay):
        self.width_multiplier = width_multiplier
        self.sk_ratio, self.se_ratio = sk_ratio, se_ratio
        self.batch_norm_decay = batch_norm_decay

    def width(self, filters: int) -> int:
        return max(int(round(filters * self.width_multiplier)), 1)

    def conv(self, x, filters, kernel, strides, name):
        if strides > 1 and kernel > 1:
            # Symmetric padding at any size. "same" would pad an even side more at its end.
            before = (kernel - 1) // 2
            pad = (before, kernel - 1 - before)
            x = layers.ZeroPadding2D((pad, pad), name=f"{name}_pad")(x)
        return layers.Conv2D(
            filters,
            kernel,
            strides,
            padding="same" if strides == 1 else "valid",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(),
            name=name,
        )(x)

    def norm(self, x, name, zero=False):
        return layers.BatchNormalization(
            momentum=self.batch_norm_decay,
            epsilon=_EPSILON,
            gamma_initializer="zeros" if zero else "ones",
            name=name,
        )(x)

    def conv_norm_relu(self, x, filters, kernel, strides, name):
        x = self.norm(self.conv(x, filters, kernel, strides, f"{name}_conv"), f"{name}_norm")
        return layers.ReLU(name=f"{name}_relu")(x)

    def stem(self, x, small):
        if small:
            x = self.conv(x, self.width(64), 3, 1, "initial_conv")
            x = self.norm(x, "stem_norm")
            return layers.ReLU(name="initial_max_pool")(x)
        if self.sk_ratio > 0:
            half = max(self.width(64) // 2, 1)
            x = self.conv_norm_relu(x, half, 3, 2, "stem1")
            x = self.conv_norm_relu(x, half, 3, 1, "stem2")
            x = self.conv(x, self.width(64), 3, 1, "initial_conv")
        else:
            x = self.conv(x, self.width(64), 7, 2, "initial_conv")
        x = layers.ReLU(name="stem_relu")(self.norm(x, "stem_norm"))
        return layers.MaxPooling2D(3, 2, padding="same", name="initial_max_pool")(x)

    def basic(self, x, filters, strides, project, prefix, last):
        shortcut = self.shortcut(x, filters, strides, prefix) if project else x
        x = self.conv_norm_relu(x, filters, 3, strides, f"{prefix}_1")
        x = self.norm(self.conv(x, filters, 3, 1, f"{prefix}_2_conv"), f"{prefix}_2_norm", True)
        return self.join(x, shortcut, filters, prefix, last)

    def bottleneck(self, x, filters, strides, project, prefix, last):
        shortcut = self.shortcut(x, 4 * filters, strides, prefix) if project else x
        x = self.conv_norm_relu(x, filters, 1, 1, f"{prefix}_1")
        if self.sk_ratio > 0:
            x = self.selective_kernel(x, filters, strides, f"{prefix}_2")
        else:
            x = self.conv_norm_relu(x, filters, 3, strides, f"{prefix}_2")
        x = self.conv(x, 4 * filters, 1, 1, f"{prefix}_3_conv")
        x = self.norm(x, f"{prefix}_3_norm", True)
        return self.join(x, shortcut, filters, prefix, last)

    def shortcut(self, x, filters, strides, prefix):
        name = f"{prefix}_shortcut"
        if self.sk_ratio > 0:  # ResNet-D: average before the 1x1, so that no pixel is dropped.
            if strides > 1:
                x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
            padding = "same" if strides == 1 else "valid"
            x = layers.AveragePooling2D(2, strides, padding=padding, name=f"{name}_pool")(x)
            strides = 1
        return self.norm(self.conv(x, filters, 1, strides, f"{name}_conv"), f"{name}_norm")

    def join(self, x, shortcut, filters, prefix, last):
        if self.se_ratio > 0:
            x = self.squeeze_excite(x, filters, f"{prefix}_se")
        return layers.ReLU(name=last)(layers.Add(name=f"{prefix}_add")([x, shortcut]))

    def selective_kernel(self, x, filters, strides, name):
        """Two 3x3 streams, mixed by softmax weights that are computed from their sum."""
        x = self.conv_norm_relu(x, 2 * filters, 3, strides, name)
        first, second = _halves(x, filters, name)
        pooled = layers.Add(name=f"{name}_sum")([first, second])
        pooled = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(pooled)
        middle = max(int(filters * self.sk_ratio), _SK_LEAST_WIDTH)
        mixing = self.conv_norm_relu(pooled, middle, 1, 1, f"{name}_squeeze")
        mixing = self.conv(mixing, 2 * filters, 1, 1, f"{name}_mix_conv")
        # A softmax over two logits is the sigmoid of their difference.
        share = layers.Subtract(name=f"{name}_mix")(_halves(mixing, filters, f"{name}_mix"))
        share = layers.Activation("sigmoid", name=f"{name}_share")(share)
        difference = layers.Subtract(name=f"{name}_difference")([first, second])
        weighted = layers.Multiply(name=f"{name}_weighted")([share, difference])
        return layers.Add(name=f"{name}_out")([second, weighted])

    def squeeze_excite(self, x, filters, name):
        """Gates each channel, from the channel means; the width follows the block's inner width."""
        gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
        for part, width, activation in (
            ("reduce", max(1, int(filters * self.se_ratio)), "relu"),
            ("expand", x.shape[-1], "sigmoid"),
        ):
            gate = layers.Conv2D(
                width,
                1,
                activation=activation,
                kernel_initializer=keras.initializers.VarianceScaling(),
                name=f"{name}_{part}",
            )(gate)
        return layers.Multiply(name=f"{name}_out")([gate, x])


def _halves(x, filters, name):
    """Both halves of the channels, by a layer that every version of Keras has.

    Slicing would make a layer of a TensorFlow operation, which Keras 3 cannot load. With
    channels_first, Cropping2D crops the last two axes, which are W and C here.
    """
    return [
        layers.Cropping2D(((0, 0), cut), data_format="channels_first", name=f"{name}_{part}")(x)
        for part, cut in (("first", (0, filters)), ("second", (filters, 0)))
    ]
