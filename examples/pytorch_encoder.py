"""Loads an exported ResNet of tf_simclr into PyTorch.

    encoder = load_encoder("encoder/encoder.safetensors")
    h = encoder(images)  # float32 [N, C, H, W] in [0, 1] -> float32 [N, D]

Copy this file into your project: it needs torch and safetensors, and neither TensorFlow nor
tf_simclr. Do not normalise the images by a mean and a standard deviation. The architecture, that
of tf_simclr/models/resnet.py, is inferred from the names and shapes of the tensors.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn


def load_encoder(path) -> nn.Module:
    """Loads an encoder in evaluation mode; after `encoder.train()` it can be trained.

    Args:
      path: an `encoder.safetensors` that tf_simclr exported.

    Returns:
      A module from float32 [N, C, H, W] in [0, 1], any H and W, to float32 [N, D]. Its children
      are `stem`, `group1` to `group4`, `pool` and `flatten`.

    Raises:
      ValueError: the encoder is not a ResNet of tf_simclr; the message names a tensor.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() or {}
    try:
        return _Builder(tensors, metadata).resnet().eval()
    except LookupError as error:
        only = "Only the ResNets of tf_simclr can be loaded here: resnet10 to resnet200."
        raise ValueError(f"{path} has {error.args[0]}. {only}") from None


class _Builder:
    """Builds the layers of one ResNet; each takes its tensors away, so none may be left over."""

    def __init__(self, tensors, metadata):
        self.tensors = tensors
        self.bottleneck, self.selective, self.excite, self.deep_stem = (
            any(part in name for name in tensors)
            for part in ("_3_conv.", "_mix_conv.", "_se_", "stem1_")
        )
        # ResNet-D's average pooling has no tensors. With basic blocks and a small stem, only the
        # metadata can show it.
        stated = "_shortcut_pool" in metadata.get("keras_config", "")
        self.resnet_d = self.deep_stem or self.selective or stated

    def resnet(self):
        parts = OrderedDict(stem=self.stem())
        for group in range(1, 5):
            prefix = f"group{group}_block"
            blocks = [self.block(f"{prefix}1", 1 if group == 1 else 2, project=True)]
            while any(name.startswith(f"{prefix}{len(blocks) + 1}_") for name in self.tensors):
                blocks.append(self.block(f"{prefix}{len(blocks) + 1}", 1, project=False))
            parts[f"group{group}"] = nn.Sequential(*blocks)
        if self.tensors:
            raise LookupError(f"an unknown tensor, {min(self.tensors)}")
        return nn.Sequential(OrderedDict(parts, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))

    def stem(self):
        initial = self.conv("initial_conv")
        layers = [initial, self.norm("stem_norm"), nn.ReLU()]
        if self.deep_stem:
            layers = [*self.conv_norm_relu("stem1", 2), *self.conv_norm_relu("stem2"), *layers]
        elif initial.kernel_size == (7, 7):
            initial.stride = (2, 2)
        else:
            return nn.Sequential(*layers)  # The stem for small images keeps the resolution.
        return nn.Sequential(*layers, _MaxPool())

    def block(self, name, stride, project):
        shortcut = self.shortcut(f"{name}_shortcut", stride) if project else []
        convs = ((1, 1), (2, stride), (3, 1)) if self.bottleneck else ((1, stride), (2, 1))
        layers = []
        for number, conv_stride in convs:
            layers += self.conv_norm_relu(f"{name}_{number}", conv_stride)
            if self.selective and number == 2:
                mixing = self.conv_norm_relu(f"{name}_2_squeeze")
                mixing += [self.conv(f"{name}_2_mix_conv")]
                layers += [_SelectiveKernel(nn.AdaptiveAvgPool2d(1), *mixing)]
        layers.pop()  # The last ReLU follows the sum with the shortcut.
        if self.excite:
            reduce, expand = (self.conv(f"{name}_se_{p}", bias=True) for p in ("reduce", "expand"))
            gate = (nn.AdaptiveAvgPool2d(1), reduce, nn.ReLU(), expand, nn.Sigmoid())
            layers += [_SqueezeExcite(*gate)]
        return _Block(nn.Sequential(*layers), nn.Sequential(*shortcut))

    def shortcut(self, name, stride):
        layers = []
        if self.resnet_d:
            # Zeros count in Keras' mean with stride 2. Padding does not count with stride 1, which
            # is the same as repeating the last row and column.
            pad = nn.ReplicationPad2d if stride == 1 else nn.ZeroPad2d
            layers = [pad((0, 1, 0, 1)), nn.AvgPool2d(2, stride)]
            stride = 1
        return [*layers, self.conv(f"{name}_conv", stride), self.norm(f"{name}_norm")]

    def conv_norm_relu(self, name, stride=1):
        return [self.conv(f"{name}_conv", stride), self.norm(f"{name}_norm"), nn.ReLU()]

    def conv(self, name, stride=1, bias=False):
        kernel = self.take(f"{name}.kernel").permute(3, 2, 0, 1).contiguous()
        outputs, inputs, side, _ = kernel.shape
        options = {"stride": stride, "padding": (side - 1) // 2, "bias": bias}
        conv = nn.utils.skip_init(nn.Conv2d, inputs, outputs, side, **options)
        conv.weight = nn.Parameter(kernel)
        if bias:
            conv.bias = nn.Parameter(self.take(f"{name}.bias"))
        return conv

    def norm(self, name):
        gamma, beta = (nn.Parameter(self.take(f"{name}.{part}")) for part in ("gamma", "beta"))
        norm = nn.BatchNorm2d(len(gamma), eps=1e-5, momentum=0.1)  # Keras' momentum is 1 - 0.1.
        norm.weight, norm.bias = gamma, beta
        norm.running_mean = self.take(f"{name}.moving_mean")
        norm.running_var = self.take(f"{name}.moving_variance")
        return norm

    def take(self, name):
        if name not in self.tensors:
            raise LookupError(f"no tensor {name}")
        return self.tensors.pop(name)


class _Block(nn.Module):
    def __init__(self, residual, shortcut):
        super().__init__()
        self.residual, self.shortcut = residual, shortcut

    def forward(self, x):
        return F.relu(self.residual(x) + self.shortcut(x))


class _SelectiveKernel(nn.Sequential):
    """Mixes two streams, the halves of the channels; its layers compute logits from their sum."""

    def forward(self, x):
        first, second = x.chunk(2, dim=1)
        first_logits, second_logits = super().forward(first + second).chunk(2, dim=1)
        # A softmax over two logits is the sigmoid of their difference.
        return second + torch.sigmoid(first_logits - second_logits) * (first - second)


class _SqueezeExcite(nn.Sequential):
    """Multiplies each channel by a gate, which its layers compute from the channel means."""

    def forward(self, x):
        return super().forward(x) * x


class _MaxPool(nn.Module):
    """Keras' MaxPooling2D(3, 2, padding="same"): an even side is padded at its end only."""

    def forward(self, x):
        height, width = x.shape[-2:]
        return F.max_pool2d(F.pad(x, (width % 2, 1, height % 2, 1), value=-math.inf), 3, 2)
