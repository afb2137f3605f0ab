"""The private names of Keras that the package uses still do what it uses them for."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.models import keras_internals

layers = tf.keras.layers
IMAGES = np.random.default_rng(0).normal(size=[4, 2, 2, 3]).astype(np.float32)


def operations(layer):
    function = tf.function(lambda x: layer(x, training=True))
    return {op.type for op in function.get_concrete_function(IMAGES).graph.get_operations()}


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_norm_is_switched(synchronized):
    layer = layers.BatchNormalization(momentum=0.0)
    layer.build(IMAGES.shape)
    for now in (not synchronized, synchronized):
        keras_internals.switch_batch_norm(layer, now)
    assert ("FusedBatchNormV3" in operations(layer)) == (not synchronized)
    layer(IMAGES, training=True)
    # The biased estimate in both forms; Keras' fused kernel gives 16 / 15 of it.
    np.testing.assert_allclose(layer.moving_variance, IMAGES.var(axis=(0, 1, 2)), rtol=1e-5)


def test_all_that_is_switched_is_listed():
    layer = layers.BatchNormalization()
    layer.build(IMAGES.shape)
    before = dict(vars(layer))
    keras_internals.switch_batch_norm(layer, True)
    changed = {name for name, value in vars(layer).items() if before.get(name, ...) is not value}
    assert "synchronized" in changed and changed <= {*keras_internals.BATCH_NORM_SWITCHES}


@pytest.mark.parametrize("layer", [layers.BatchNormalization(axis=2), layers.BatchNormalization()])
def test_without_a_fused_kernel_it_stays_unfused(layer):
    layer.build(IMAGES.shape if layer.axis == 2 else [4, 3])
    keras_internals.switch_batch_norm(layer, False)
    assert layer.fused is False


@pytest.mark.parametrize("kind", [layers.Dropout, layers.GaussianNoise, layers.SpatialDropout2D])
def test_a_random_state_can_be_set_back(kind):
    layer = kind(0.5)
    assert keras_internals.random_state(layers.ReLU()) is None
    keras_internals.make_random_state_readable(layer)
    state = keras_internals.random_state(layer)
    before = tf.identity(state)
    first, second = (layer(IMAGES, training=True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)
    state.assign(before)
    np.testing.assert_array_equal(layer(IMAGES, training=True), first)


def test_layers_inside_layers_are_found():
    assert not keras_internals.has_inner_layers(layers.Dense(2))
    assert keras_internals.has_inner_layers(tf.keras.Sequential([layers.Dense(2)]))


def test_penalties_are_those_of_weights_alone():
    layer = layers.Dense(2, kernel_regularizer="l2", activity_regularizer="l2")
    layer(tf.ones([1, 3]))
    assert len(layer.losses) == 2
    (penalty,) = keras_internals.weight_penalties(layer)
    np.testing.assert_allclose(penalty(), 0.01 * np.sum(layer.kernel.numpy() ** 2), rtol=1e-5)


class Subclassed(tf.keras.Model):
    def call(self, x):
        return x


def test_functional_models_are_told_from_others():
    images = tf.keras.Input([2, 2, 3])
    assert keras_internals.is_functional(tf.keras.Model(images, layers.ReLU()(images)))
    assert keras_internals.is_functional(tf.keras.Sequential([images, layers.ReLU()]))
    assert not keras_internals.is_functional(Subclassed())
    assert not keras_internals.is_functional(layers.ReLU())
