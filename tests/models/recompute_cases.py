"""A small network and the result of one training step, for tests of recomputing."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.models.simclr import SimCLR

layers = tf.keras.layers
BATCH, SIZE, TEMPERATURE = 24, 8, 0.5
RATE = 2.0**14  # Of SGD, so large that adding the update to a weight hardly rounds the gradient.
VIEWS = np.random.default_rng(0).random([2, BATCH, SIZE, SIZE, 3]).astype(np.float32)


def network(*, norm=False, dropout=0.0, regularizer=None):
    """A small residual encoder and a head, with the same weights at every call."""
    tf.keras.utils.set_random_seed(1)
    images = layers.Input([SIZE, SIZE, 3])
    x = layers.Conv2D(8, 3, padding="same", kernel_regularizer=regularizer)(images)
    for _ in range(2):
        y = layers.BatchNormalization(momentum=0.8)(x) if norm else x
        y = layers.Conv2D(8, 3, padding="same", activation="relu")(y)
        y = layers.Dropout(dropout, seed=3)(y) if dropout else y
        x = layers.Add()([x, y])
    encoder = tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))
    head = tf.keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(6)])
    head.build([None, 8])
    return encoder, head


def model_of(parts, **options):
    model = SimCLR(*parts, temperature=TEMPERATURE, **options)
    model.compile(tf.keras.optimizers.SGD(RATE))
    return model


def step(model, views=VIEWS, jit_compile=False):
    """(loss, gradients) of one training step."""
    before = [v.numpy() for v in model.learned_variables]
    train = tf.function(model.train_step, jit_compile=jit_compile)
    logs = train(tuple(tf.constant(v) for v in views))
    moved = [(b - v.numpy()) / RATE for b, v in zip(before, model.learned_variables)]
    return float(logs["loss"]), moved


def gradient_of(parts, **options):
    return np.concatenate([np.ravel(g) for g in step(model_of(parts, **options))[1]])


def assert_same(got, want, tolerance=1e-5):
    assert got[0] == pytest.approx(want[0], rel=tolerance)
    got, want = (np.concatenate([np.ravel(g) for g in side[1]]) for side in (got, want))
    assert np.linalg.norm(want) > 1e-3
    assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)
