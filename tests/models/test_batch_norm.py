"""Batch normalisation: equal on any number of replicas, fused on one, plain in copies."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tf_simclr.models.batch_norm import batch_norm_layers, plain_copy, synchronize_batch_norm
from tf_simclr.models.encoders import build_encoder

BATCH = 8


@contextlib.contextmanager
def precision(policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random([BATCH, 16, 16, 3]).astype(np.float32)


def tiny():
    """An encoder with the same weights each time, and with gammas that use every block."""
    tf.keras.utils.set_random_seed(1)
    encoder = build_encoder("resnet10", image_size=16, width_multiplier=0.125)
    rng = np.random.default_rng(1)
    for norm in batch_norm_layers(encoder):
        norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(rng.normal(0, 0.1, norm.beta.shape))
    return encoder


def forward_backward(replicas, images, synchronised):
    """h, gradients of a fixed function of it, and moving statistics after one step."""
    weights = np.random.default_rng(2).normal(size=[BATCH, 64]).astype(np.float32)
    strategy = mirrored(replicas)
    with strategy.scope():
        encoder = tiny()
        synchronize_batch_norm(encoder, synchronised)
    dataset = tf.data.Dataset.from_tensors((images, weights)).unbatch().batch(BATCH)
    (batch,) = strategy.experimental_distribute_dataset(dataset)

    @tf.function
    def step(images, weights):
        with tf.GradientTape() as tape:
            h = encoder(images, training=True)
            loss = tf.reduce_sum(h * weights)
        gradients = tape.gradient(loss, encoder.trainable_variables)
        context = tf.distribute.get_replica_context()
        return h, context.all_reduce("sum", gradients)

    h, gradients = strategy.run(step, args=batch)
    h = np.concatenate(strategy.experimental_local_results(h))
    gradients = [strategy.experimental_local_results(g)[0].numpy() for g in gradients]
    return h, gradients, [v.numpy() for v in encoder.non_trainable_variables]


@pytest.fixture(scope="module")
def one_replica(images):
    return forward_backward(1, images, False)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_agree_with_one_on_the_global_batch(replicas, images, one_replica):
    many = forward_backward(replicas, images, True)
    np.testing.assert_allclose(many[0], one_replica[0], rtol=1e-4, atol=1e-4)
    for kind in (1, 2):  # Gradients, moving statistics.
        assert len(many[kind]) == len(one_replica[kind]) > 0
        for a, b in zip(many[kind], one_replica[kind]):
            assert np.abs(a - b).max() <= 1e-3 * np.abs(b).max()


def test_replicas_that_do_not_synchronise_differ(images, one_replica):
    apart = forward_backward(2, images, False)
    assert np.abs(apart[0] - one_replica[0]).max() > 0.01


def test_one_replica_runs_the_fused_kernel(images):
    encoder = tiny()
    for synchronised, count in ((False, 13), (True, 0), (False, 13)):
        assert synchronize_batch_norm(encoder, synchronised) == 13
        graph = tf.function(lambda x: encoder(x, training=True)).get_concrete_function(images).graph
        fused = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
        assert len(fused) == count


def test_a_layer_made_synchronised_can_be_fused(images):
    inputs = tf.keras.Input([16, 16, 3])
    norm = tf.keras.layers.BatchNormalization(synchronized=True)
    model = tf.keras.Model(inputs, norm(inputs))
    before = model(images, training=True)
    assert synchronize_batch_norm(model, False) == 1 and norm.fused
    np.testing.assert_allclose(model(images, training=True), before, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options"),
    [([12], {}), ([16, 12], {}), ([4, 4, 12], {"axis": 2}), ([4, 4, 12], {"dtype": "float64"})],
)
def test_layers_without_a_fused_kernel_stay_unfused(shape, options):
    inputs = tf.keras.Input(shape, dtype=options.get("dtype"))
    norm = tf.keras.layers.BatchNormalization(**options)
    model = tf.keras.Model(inputs, norm(inputs))
    synchronize_batch_norm(model, False)
    assert norm.fused is False
    assert np.isfinite(model(np.ones([2, *shape]), training=True)).all()


@pytest.mark.parametrize("name", ["resnet50", "resnet18v2", "densenet121", "efficientnetv2-b0"])
def test_a_plain_copy_made_under_mixed_precision_is_float32_all_the_way_down(name):
    options = {"width_multiplier": 0.125, "sk_ratio": 0.0625} if name == "resnet50" else {}
    with precision("mixed_bfloat16"):
        encoder = build_encoder(name, **options)
        synchronize_batch_norm(encoder)
        copy = plain_copy(encoder)
        assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    inner = [m for m in copy.submodules if isinstance(m, tf.keras.layers.Layer)]
    assert {layer.compute_dtype for layer in inner} == {"float32"}
    assert not any(layer.synchronized for layer in batch_norm_layers(copy))
    for a, b in zip(encoder.get_weights(), copy.get_weights()):
        np.testing.assert_array_equal(a, b)
    images = np.random.default_rng(0).random([2, 64, 64, 3]).astype(np.float32)
    a, b = encoder(images).numpy(), copy(images).numpy()
    assert a.dtype == b.dtype == np.float32
    assert np.abs(a - b).max() <= 0.05 * np.abs(b).max()  # bfloat16 has 8 bits.


@pytest.mark.parametrize("name", ["resnet18", "efficientnetv2-b0"])
def test_a_plain_copy_of_a_partly_frozen_encoder_is_the_same(name):
    encoder = build_encoder(name)
    rng = np.random.default_rng(0)
    encoder.set_weights([w + rng.random(w.shape).astype(np.float32) for w in encoder.get_weights()])
    for layer in encoder.layers[: len(encoder.layers) // 2]:
        layer.trainable = False
    images = rng.random([2, 32, 32, 3]).astype(np.float32)
    np.testing.assert_allclose(plain_copy(encoder)(images), encoder(images), rtol=1e-4)


def test_a_synchronised_encoder_comes_back_from_a_file(images, tmp_path):
    encoder = tiny()
    synchronize_batch_norm(encoder)
    encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(tmp_path / "encoder.keras", safe_mode=True)
    synchronize_batch_norm(again, False)
    np.testing.assert_allclose(again(images), encoder(images), atol=1e-5)
