"""examples/pytorch_encoder.py gives our vectors. Skipped where PyTorch is not installed."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.export import export_encoder
from tf_simclr.export.probe import relative_difference
from tf_simclr.models.encoders import build_encoder

torch = pytest.importorskip("torch")
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ENCODERS = {
    "small stem": ("resnet18", 32, {"width_multiplier": 0.25}, (31, 30)),
    "large stem": ("resnet18", 64, {"width_multiplier": 0.25}, (65, 50)),
    "ResNet-D": ("resnet18", 32, {"width_multiplier": 0.25, "sk_ratio": 0.0625}, (32, 32)),
    "selective": ("resnet50", 64, {"width_multiplier": 0.125, "sk_ratio": 0.0625}, (64, 49)),
    "excited": ("resnet50", 32, {"width_multiplier": 0.125, "se_ratio": 0.0625}, (32, 33)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_pytorch_gives_the_same_vectors(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from pytorch_encoder import load_encoder

    kind, image_size, options, sides = ENCODERS[name]
    encoder, rng = build_encoder(kind, image_size=image_size, **options), np.random.default_rng(0)
    for variable in encoder.trainable_variables:
        if "gamma" in variable.name:  # The last of a block starts at 0.
            variable.assign(rng.uniform(0.1, 0.5, variable.shape))
    # Of different colours: the vectors of noise would hardly vary.
    images = (rng.random([8, 1, 1, 3]) * rng.random([8, *sides, 3])).astype(np.float32)
    for _ in range(10):
        encoder(images, training=True)
    export_encoder(encoder, tmp_path / "e", formats=["safetensors"])
    theirs = load_encoder(str(tmp_path / "e/encoder.safetensors"))
    with torch.no_grad():
        h = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert relative_difference(encoder(images, training=False), h) < 1e-3


def test_what_is_no_resnet_of_ours_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from pytorch_encoder import load_encoder

    images = tf.keras.Input([None, None, 3])
    h = tf.keras.layers.GlobalAveragePooling2D()(tf.keras.layers.Conv2D(4, 3)(images))
    export_encoder(tf.keras.Model(images, h), tmp_path / "e", formats=["safetensors"])
    with pytest.raises(ValueError, match="no tensor initial_conv.kernel. Only the ResNets"):
        load_encoder(str(tmp_path / "e/encoder.safetensors"))
