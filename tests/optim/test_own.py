"""Tests of each of our optimisers: saving and restoring, config, training with Keras."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.optim.cases import as_variables, draw_gradients, draw_start, take_step
from tf_simclr.optim.lamb import LAMB
from tf_simclr.optim.lars import LARS
from tf_simclr.optim.schedules import WarmupCosine


@pytest.mark.parametrize(
    "fresh",
    [
        lambda: LARS(WarmupCosine(1.0, 4, 12), weight_decay=1e-2, eta=0.05),
        lambda: LAMB(WarmupCosine(0.02, 4, 12), weight_decay=1e-2),
    ],
    ids=["lars", "lamb"],
)
@pytest.mark.parametrize("built_first", [True, False])
def test_restored_run_continues_identically(fresh, built_first, tmp_path):
    gradients = draw_gradients(12)
    optimizer, variables = fresh(), as_variables(draw_start())
    for step in range(12):
        if step == 6:
            checkpoint = tf.train.Checkpoint(optimizer=optimizer, variables=variables)
            path = checkpoint.write(str(tmp_path / "middle"))
        take_step(optimizer, gradients[step], variables)

    twin, twin_variables = fresh(), as_variables(draw_start(seed=9))
    if built_first:
        twin.build(twin_variables)
    status = tf.train.Checkpoint(optimizer=twin, variables=twin_variables).read(path)
    for step in range(6, 12):
        take_step(twin, gradients[step], twin_variables)
    status.assert_consumed()
    assert int(twin.iterations) == 12
    for got, want in zip(twin_variables, variables):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        (LARS, {"momentum": 0.8, "weight_decay": 1e-3, "eta": 0.01, "clipnorm": 2}),
        (
            LAMB,
            {
                **{"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
                **{"weight_decay": 1e-2, "clipnorm": 2},
            },
        ),
    ],
    ids=["lars", "lamb"],
)
def test_round_trips(own, settings):
    optimizer = own(WarmupCosine(0.5, 3, 9), name="L", **settings)
    config = optimizer.get_config()
    assert {name: config[name] for name in settings} == settings
    serialized = tf.keras.optimizers.serialize(optimizer)
    assert serialized["registered_name"] == f"tf_simclr>{own.__name__}"
    # Keras modifies the config that it is given.
    for twin in (
        own.from_config(optimizer.get_config()),
        tf.keras.optimizers.deserialize(serialized),
    ):
        assert isinstance(twin, own) and twin.name == "L" and twin.get_config() == config
        runs = []
        for one in (twin, own(WarmupCosine(0.5, 3, 9), **settings)):
            variables = as_variables(draw_start())
            for gradients in draw_gradients(4):
                take_step(one, gradients, variables)
            runs.append([v.numpy() for v in variables])
        for got, want in zip(*runs):
            np.testing.assert_array_equal(got, want)
    assert float(own.from_config(own(0.25).get_config()).learning_rate) == 0.25


@pytest.mark.parametrize(
    "optimizer", [lambda: LARS(0.5, eta=0.1), lambda: LAMB(0.1)], ids=["lars", "lamb"]
)
def test_trains_a_keras_model(optimizer):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(3,))])
    model.compile(optimizer(), "mse")
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    y = x @ np.float32([[1.0], [-2.0], [0.5]]) + 0.3
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
