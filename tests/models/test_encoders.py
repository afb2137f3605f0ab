"""Encoders: sizes, shapes, files and errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import batch_norm_layers, plain_copy, synchronize_batch_norm
from tf_simclr.models.encoders import (
    ENCODERS,
    build_encoder,
    endpoint_tensors,
)

# (all parameters, trainable ones) at 224 px, 3 channels. ResNet-50's trainable ones are
# torchvision's without its classifier, as are those of ConvNeXt, DenseNet and MobileNetV2;
# keras-cv's totals are the `params` of its own presets.
PARAMETERS = {
    "ConvNeXtTiny": (27820128, 27820128),
    "ConvNeXtSmall": (49454688, 49454688),
    "ConvNeXtBase": (87566464, 87566464),
    "ConvNeXtLarge": (196230336, 196230336),
    "ConvNeXtXLarge": (348147968, 348147968),
    "DenseNet121": (7037504, 6953856),
    "DenseNet169": (12642880, 12484480),
    "DenseNet201": (18321984, 18092928),
    "EfficientNetV2B0": (5919312, 5858704),
    "EfficientNetV2B1": (6931124, 6860052),
    "EfficientNetV2B2": (8769374, 8687086),
    "EfficientNetV2B3": (12930622, 12821406),
    "EfficientNetV2L": (117746848, 117234272),
    "EfficientNetV2M": (53150388, 52858356),
    "EfficientNetV2S": (20331360, 20177488),
    "MobileNet": (3228864, 3206976),
    "MobileNetV2": (2257984, 2223872),
    "MobileNetV3Large": (2996352, 2971952),
    "MobileNetV3Small": (939120, 927008),
    "ResNet50V2": (23564800, 23519360),
    "ResNet101V2": (42626560, 42528896),
    "ResNet152V2": (58331648, 58187904),
    "ResNetRS50": (33696288, 33642912),
    "Xception": (20861480, 20806952),
    "densenet121": (7037504, 6953856),
    "densenet169": (12642880, 12484480),
    "densenet201": (18321984, 18092928),
    "efficientnetv2-b0": (5919312, 5858704),
    "efficientnetv2-b1": (6931124, 6860052),
    "efficientnetv2-b2": (8769374, 8687086),
    "efficientnetv2-b3": (12930622, 12821406),
    "efficientnetv2-l": (117746848, 117234272),
    "efficientnetv2-m": (53150388, 52858356),
    "efficientnetv2-s": (20331360, 20177488),
    "resnet10": (4915904, 4910016),
    "resnet101": (42605504, 42500160),
    "resnet101v2": (42626560, 42528896),
    "resnet152": (58295232, 58143808),
    "resnet152v2": (58331648, 58187904),
    "resnet18": (11190464, 11180736),
    "resnet18v2": (11183488, 11175680),
    "resnet200": (62800832, 62624832),
    "resnet34": (21306048, 21288896),
    "resnet34v2": (21299072, 21283840),
    "resnet50": (23561152, 23508032),
    "resnet50v2": (23564800, 23519360),
}
QUICK = (
    *("resnet18", "resnet50", "resnet18v2", "densenet121", "efficientnetv2-b0"),
    *("ConvNeXtTiny", "MobileNetV3Small"),
)


def test_every_encoder_has_a_golden_count():
    assert set(PARAMETERS) == set(ENCODERS)


def check_parameters(name):
    encoder = build_encoder(name)
    trainable = sum(v.shape.num_elements() for v in encoder.trainable_variables)
    assert (encoder.count_params(), trainable) == PARAMETERS[name]


@pytest.mark.parametrize("name", QUICK)
def test_parameters(name):
    check_parameters(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ENCODERS) - set(QUICK)))
def test_parameters_of_the_others(name):
    check_parameters(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18v2", "efficientnetv2-b0"])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_channels_and_any_size(name, channels):
    encoder = build_encoder(name, channels=channels)
    for size in (40, 64):
        h = encoder(np.ones([2, size, size, channels], np.float32))
        assert h.shape == (2, encoder.output_shape[1]) and h.dtype == tf.float32


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        ("resnet18", 1),
        ("resnet50", 1),
        ("resnet18v2", 1),
        ("efficientnetv2-b0", 1),
        ("densenet121", 29),
        ("ConvNeXtTiny", 32),
        ("MobileNetV2", 31),
        ("Xception", 7),
    ],
)
def test_the_smallest_images(name, smallest):
    encoder = build_encoder(name, image_size=smallest)
    for size in (smallest, smallest + 1, smallest + 7):
        images = np.random.default_rng(0).random([2, size, size, 3]).astype(np.float32)
        assert np.isfinite(encoder(images, training=True)).all()
    if smallest > 1:
        function = tf.function(encoder)
        with pytest.raises(ValueError):
            function.get_concrete_function(tf.TensorSpec([2, smallest - 1, smallest - 1, 3]))


def test_levels_of_an_encoder_with_operations():
    images = tf.keras.Input([None, None, 3])
    x = images * 2.0 - 1.0
    half = tf.nn.relu(tf.keras.layers.Conv2D(4, 3, 2, padding="same")(x) + 1.0)
    encoder = tf.keras.Model(images, tf.reduce_mean(half, [1, 2]))
    found = tf.keras.Model(images, endpoint_tensors(encoder))(np.ones([1, 8, 8, 3]))
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    assert shapes == {"level1": (1, 8, 8, 3), "level2": (1, 4, 4, 4), "final_avg_pool": (1, 4)}
    np.testing.assert_allclose(found["level1"], np.ones([1, 8, 8, 3]))
    np.testing.assert_allclose(found["final_avg_pool"], tf.reduce_mean(found["level2"], [1, 2]))


def test_the_stem_keeps_the_resolution_of_small_images():
    small, large = (build_encoder("resnet18", image_size=size) for size in (32, 33))
    images = np.ones([1, 32, 32, 3], np.float32)
    for encoder, side in ((small, 32), (large, 8)):
        layer = encoder.get_layer("initial_max_pool")
        assert tf.keras.Model(encoder.input, layer.output)(images).shape[1] == side


def test_zero_gammas_make_every_block_start_as_its_shortcut():
    encoder = build_encoder("resnet50", width_multiplier=0.125)
    zeros = [layer for layer in batch_norm_layers(encoder) if not layer.gamma.numpy().any()]
    assert len(zeros) == 16  # One per block: 3 + 4 + 6 + 3.


def test_width_and_selective_kernels_change_what_they_should():
    wide = build_encoder("resnet50", width_multiplier=2)
    assert wide.output_shape == (None, 4096)
    plain = build_encoder("resnet50", width_multiplier=0.125)
    selective = build_encoder("resnet50", width_multiplier=0.125, sk_ratio=0.0625)
    excited = build_encoder("resnet50", width_multiplier=0.125, se_ratio=0.25)
    images = np.random.default_rng(0).random([2, 64, 64, 3]).astype(np.float32)
    for encoder in (selective, excited):
        assert encoder.count_params() > plain.count_params()
        assert np.isfinite(encoder(images, training=True)).all()


@pytest.mark.parametrize("options", [{}, {"sk_ratio": 0.0625, "se_ratio": 0.25}])
def test_the_keras_file_needs_no_tf_simclr(options, tmp_path):
    encoder = build_encoder("resnet50", width_multiplier=0.125, image_size=32, **options)
    encoder.save(tmp_path / "encoder.keras")
    images = np.random.default_rng(0).random([2, 32, 32, 3]).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    script = f"""
import sys
sys.modules["tf_simclr"] = None
import numpy as np, tensorflow as tf
encoder = tf.keras.models.load_model("{tmp_path}/encoder.keras", safe_mode=True)
np.save("{tmp_path}/h.npy", encoder(np.load("{tmp_path}/images.npy")))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "h.npy"), encoder(images), atol=1e-5)


def test_endpoints():
    ours = endpoint_tensors(build_encoder("resnet18"))
    groups = [f"block_group{i}" for i in range(1, 5)]
    assert list(ours) == ["initial_conv", "initial_max_pool", *groups, "final_avg_pool"]
    assert [ours[name].shape[-1] for name in groups] == [64, 128, 256, 512]
    theirs = endpoint_tensors(build_encoder("resnet18v2"))
    assert list(theirs)[-1] == "final_avg_pool" and len(theirs) >= 5


def test_endpoints_of_an_encoder_around_another():
    inner = build_encoder("resnet18", image_size=32, width_multiplier=0.125)
    body = tf.keras.Model(inner.input, inner.get_layer("block_group2").output, name="body")
    images = tf.keras.Input([48, 48, 3])
    shared = tf.keras.layers.Conv2D(3, 3, 2, padding="same")
    h = tf.keras.layers.GlobalAveragePooling2D()(body(shared(shared(images))))
    encoder = tf.keras.Model(images, h)
    found = tf.keras.Model(encoder.input, endpoint_tensors(encoder))(np.ones([1, 48, 48, 3]))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "level1": (1, 24, 24, 3),
        "level2": (1, 12, 12, 3),
        "level3": (1, 6, 6, 16),
        "final_avg_pool": (1, 16),
    }


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 21), ("densenet121", 121), ("efficientnetv2-b0", 65)]
)
def test_batch_norm_is_reached_however_deep(name, count):
    encoder = build_encoder(name)
    assert synchronize_batch_norm(encoder) == count
    layers = batch_norm_layers(encoder)
    assert all(layer.synchronized and not layer.fused for layer in layers)
    assert synchronize_batch_norm(encoder, False) == count
    assert not any(layer.synchronized for layer in layers)
    assert all(layer.fused for layer in layers if layer.built)
    assert sum(layer.built for layer in layers) >= count - 20


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnetv2-b0", "ConvNeXtTiny", "MobileNetV3Small"]
)
def test_a_plain_copy_is_float32_and_the_same(name):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        encoder = build_encoder(name, image_size=32)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert encoder.layers[3].compute_dtype == "bfloat16"
    synchronize_batch_norm(encoder)
    copy = plain_copy(encoder)
    assert all(layer.compute_dtype == "float32" for layer in copy.layers[1:])
    assert not any(layer.synchronized for layer in batch_norm_layers(copy))
    for a, b in zip(encoder.get_weights(), copy.get_weights()):
        np.testing.assert_array_equal(a, b)
    images = np.random.default_rng(0).random([2, 64, 64, 3]).astype(np.float32)
    a, b = encoder(images, training=False).numpy(), copy(images, training=False).numpy()
    assert encoder.output.dtype == tf.float32
    assert np.abs(a - b).max() <= 0.1 * np.abs(b).max()


def test_a_model_that_cannot_be_rebuilt_is_named():
    class Stubborn(tf.keras.layers.Layer):
        def __init__(self, secret):
            super().__init__()

    inputs = tf.keras.Input([4])
    with pytest.raises(UserError, match="'mine' cannot be copied"):
        plain_copy(tf.keras.Model(inputs, Stubborn(object())(inputs), name="mine"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "unknown encoder 'resnet19': did you mean"),
        ("resnet18v2", {"sk_ratio": 0.1}, "'resnet18v2' has no sk_ratio; received 0.1"),
        ("densenet121", {"width_multiplier": 2}, "has no width_multiplier; received 2"),
        ("resnet18", {"image_size": 0}, "image_size must be at least 1; received 0"),
        ("resnet18", {"width_multiplier": 0}, "width_multiplier must be at least"),
        ("resnet18", {"channels": 0}, "channels must be at least 1; received 0"),
        ("resnet18", {"channels": 1.5}, "channels must be an integer; received 1.5"),
        ("resnet18", {"width_multiplier": "2"}, "width_multiplier must be a number; received '2'"),
        ("resnet18", {"se_ratio": float("nan")}, "se_ratio must be a number; received nan"),
        ("resnet18", {"batch_norm_decay": 2}, "batch_norm_decay must be at most 1; received 2"),
        ("densenet121", {"batch_norm_decay": 0.99}, "has no batch_norm_decay; received 0.99"),
        ("densenet121", {"channels": 0}, "channels must be at least 1; received 0"),
        ("densenet121", {"image_size": 28}, "at least 29 pixel.*received image_size=28"),
        ("densenet201", {"image_size": 1}, "at least 29 pixel.*received image_size=1"),
        ("densenet169", {"image_size": 29.5}, "at least 29 pixel.*received image_size=29.5"),
        ("resnet18v2", {"image_size": 0}, "at least 1 pixel.*received image_size=0"),
        ("efficientnetv2-b0", {"image_size": -8}, "at least 1 pixel.*received image_size=-8"),
        (["resnet18"], {}, "unknown encoder"),
    ],
)
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        build_encoder(name, **options)
