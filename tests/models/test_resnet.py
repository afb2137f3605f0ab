"""ResNets: the reference's structure, each part against NumPy, and stable names."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import batch_norm_layers
from tf_simclr.models.resnet import BLOCKS, resnet

SMALL = {"image_size": 64, "width_multiplier": 0.0625}
V2 = {**SMALL, "sk_ratio": 0.0625, "se_ratio": 0.25}


def lively(encoder, seed=0):
    """Randomises normalisation variables: the initial zero gammas switch most of the net off."""
    rng = np.random.default_rng(seed)
    for norm in batch_norm_layers(encoder):
        gamma, beta, mean, variance = (w.shape for w in norm.get_weights())
        norm.set_weights(
            [
                rng.uniform(0.5, 1.5, gamma),
                rng.normal(0, 0.1, beta),
                rng.normal(0, 0.1, mean),
                rng.uniform(0.5, 1.5, variance),
            ]
        )
    return encoder


def tensors(encoder, images, *names):
    """The outputs of the named layers, float64."""
    outputs = [encoder.get_layer(name).output for name in names]
    return [np.float64(x) for x in tf.keras.Model(encoder.input, outputs)(images)]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random([2, 41, 52, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def v2():
    return lively(resnet(50, **V2))


@pytest.mark.parametrize("depth", [18, 50])
def test_every_group_starts_with_a_projection_and_no_other_block_has_one(depth):
    encoder = resnet(depth, **SMALL)
    convolutions = [layer for layer in encoder.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    shortcuts = [layer.name for layer in convolutions if "shortcut" in layer.name]
    assert shortcuts == [f"group{i}_block1_shortcut_conv" for i in range(1, 5)]
    per_block = 3 if BLOCKS[depth][0] else 2
    assert len(convolutions) == 1 + 4 + per_block * sum(BLOCKS[depth][1])
    assert all(layer.bias is None for layer in convolutions)


def test_the_stride_is_in_the_3x3():
    encoder = resnet(50, **SMALL)
    for group in (2, 3, 4):
        convs = [encoder.get_layer(f"group{group}_block1_{i}_conv") for i in (1, 2, 3)]
        assert [conv.strides[0] for conv in convs] == [1, 2, 1]
        assert [conv.kernel_size[0] for conv in convs] == [1, 3, 1]


def test_strided_convolutions_pad_on_both_sides(images):
    encoder = resnet(18, **SMALL)
    kernel = encoder.get_layer("initial_conv").kernel
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)])
    expected = tf.nn.conv2d(padded, kernel, 2, "VALID")
    (found,) = tensors(encoder, images, "initial_conv", "initial_max_pool")[:1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kernels_start_with_variance_one_over_fan_in():
    kernel = resnet(18).get_layer("group4_block2_1_conv").kernel.numpy()
    assert abs(kernel.std() * np.sqrt(3 * 3 * 512) - 1) < 0.01


def test_selective_kernel(v2, images):
    prefix = "group2_block1_2"
    streams, out = tensors(v2, images, f"{prefix}_relu", f"{prefix}_out")
    first, second = np.split(streams, 2, axis=-1)
    pooled = (first + second).mean(axis=(1, 2))
    squeeze, norm, mix = (
        v2.get_layer(f"{prefix}_{part}").get_weights()
        for part in ("squeeze_conv", "squeeze_norm", "mix_conv")
    )
    assert squeeze[0].shape[-1] == 32  # The minimum width (arXiv:1903.06586, section 3.1).
    gamma, beta, mean, variance = norm
    hidden = pooled @ squeeze[0][0, 0]
    hidden = np.maximum((hidden - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)
    mixing = np.exp(hidden @ mix[0][0, 0]).reshape(2, 2, -1)
    a, b = np.moveaxis(mixing / mixing.sum(axis=1, keepdims=True), 1, 0)
    expected = a[:, None, None] * first + b[:, None, None] * second
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(("depth", "last_norm"), [(18, "2_norm"), (50, "3_norm")])
def test_squeeze_and_excitation(depth, last_norm, images):
    encoder = lively(resnet(depth, **SMALL, se_ratio=0.5))
    prefix = "group3_block1"
    x, out = tensors(encoder, images, f"{prefix}_{last_norm}", f"{prefix}_se_out")
    reduce, expand = (encoder.get_layer(f"{prefix}_se_{part}") for part in ("reduce", "expand"))
    assert reduce.filters == 8  # Half of the block's inner width, 256 / 16.
    w, b = reduce.get_weights()
    hidden = np.maximum(x.mean(axis=(1, 2)) @ w[0, 0] + b, 0)
    w, b = expand.get_weights()
    gate = 1 / (1 + np.exp(-(hidden @ w[0, 0] + b)))
    np.testing.assert_allclose(out, gate[:, None, None] * x, atol=1e-5)


def test_resnet_d_shortcuts_average_every_pixel(v2, images):
    x, found = tensors(v2, images, "block_group1", "group2_block1_shortcut_pool")
    height, width = (n // 2 * 2 for n in (x.shape[1] + 1, x.shape[2] + 1))
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])[:, :height, :width]
    blocks = padded.reshape(2, height // 2, 2, width // 2, 2, -1)
    np.testing.assert_allclose(found, blocks.mean(axis=(2, 4)), atol=1e-6)


def test_h_is_the_mean_over_the_map(v2, images):
    last, h = tensors(v2, images, "block_group4", "final_avg_pool")
    np.testing.assert_allclose(h, last.mean(axis=(1, 2)), atol=1e-5)
    assert last.min() >= 0.0


@pytest.mark.parametrize("options", [SMALL, V2])
def test_names_and_config_do_not_depend_on_what_was_built_before(options):
    encoder = resnet(50, **options)
    assert encoder.get_config() == resnet(50, **options).get_config()
    names = [layer.name for layer in encoder.layers]
    assert len(set(names)) == len(names) and not any("tf." in name for name in names)
    modules = {type(layer).__module__.partition(".")[0] for layer in encoder.layers}
    assert modules == {tf.keras.layers.Layer.__module__.partition(".")[0]}


def test_the_decay_reaches_every_batch_norm():
    norms = batch_norm_layers(resnet(18, **V2, batch_norm_decay=0.97))
    assert {norm.momentum for norm in norms} == {0.97}
    assert {norm.epsilon for norm in norms} == {1e-5}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_h_is_float32_under_mixed_precision(policy, images):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        encoder = resnet(50, **V2)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert encoder.get_layer("block_group4").compute_dtype == policy.removeprefix("mixed_")
    h = encoder(images, training=True)
    assert h.dtype == tf.float32 and np.isfinite(h).all()


def test_the_narrowest_net_builds(images):
    encoder = resnet(50, image_size=64, width_multiplier=1 / 64, sk_ratio=0.0625)
    assert encoder(images).shape == (2, 32)


@pytest.mark.parametrize("depth", [20, "18", [18]])
def test_unknown_depths_are_named(depth):
    with pytest.raises(UserError, match="unknown ResNet depth"):
        resnet(depth)
