"""Steps with a NaN or infinite gradient are skipped without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR


def encoder():
    """An encoder without ReLU, which on CPUs turns NaN into 0."""
    inputs = tf.keras.Input([4, 4, 1])
    x = tf.keras.layers.Flatten()(inputs)
    x = tf.keras.layers.BatchNormalization(momentum=0.5)(x)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(5, activation="tanh")(x))


def batches(bad):
    """Three batches of 8 pairs. The second has a NaN or an overflowing number, or is left out."""
    a, b = np.random.default_rng(0).random([2, 24, 4, 4, 1]).astype(np.float32)
    if bad is None:
        keep = np.r_[:8, 16:24]
        a, b = a[keep], b[keep]
    else:
        a[11, 2, 2] = bad
    return tf.data.Dataset.from_tensor_slices((a, b)).batch(8, drop_remainder=True)


def trained(bad, replicas=1, jit_compile=False, **options):
    tf.keras.utils.set_random_seed(3)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0") if replicas == 1 else mirrored(replicas)
    with strategy.scope():
        model = SimCLR(encoder(), ProjectionHead(1, 4), skip_bad_steps=True, **options)
        model.compile(tf.keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=jit_compile)
    history = model.fit(batches(bad), verbose=0, shuffle=False).history
    return model, {name: values[0] for name, values in history.items()}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("replicas", "options"),
    [
        (1, {}),
        (2, {}),
        (1, {"jit_compile": True}),
        (1, {"micro_batch_size": 4}),
    ],
    ids=str,
)
def test_a_bad_step_changes_nothing(bad, replicas, options):
    model, logs = trained(bad, replicas, **options)
    clean, expected = trained(None, replicas, **options)
    assert logs["skipped_steps"] == 1.0 and expected["skipped_steps"] == 0.0
    for name in ("loss", "alignment", "embedding_std"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-6, err_msg=name)
    weights = [m.encoder.get_weights() + m.projection_head.get_weights() for m in (model, clean)]
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert float(model.optimizer.loss_scale) == 1.0


def test_without_it_the_weights_are_lost():
    model = SimCLR(encoder(), ProjectionHead(1, 4))
    model.compile(tf.keras.optimizers.SGD(0.1))
    model.fit(batches(np.nan), verbose=0)
    assert not all(np.isfinite(w).all() for w in model.encoder.get_weights())
    assert "skipped_steps" not in [metric.name for metric in model.metrics]


def test_it_is_kept_in_the_config():
    model = SimCLR(encoder(), skip_bad_steps=True)
    assert SimCLR.from_config(model.get_config()).skip_bad_steps
