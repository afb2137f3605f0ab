"""Warmup, then cosine: every step against the closed form, for every type of `step`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import schedules as oracle
from tf_simclr.errors import UserError
from tf_simclr.optim import schedules

RUNS = [(0.3, 10, 100), (4.8, 0, 37), (1.0, 1, 2), (2.4, 5, 1000), (0.075, 7, 8)]


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.float32])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("peak", "warmup", "total"), RUNS)
def test_is_the_closed_form(peak, warmup, total, graph, dtype):
    schedule = schedules.WarmupCosine(peak, warmup, total)
    function = tf.function(schedule.__call__) if graph else schedule
    steps = {0, 1, warmup - 1, warmup, warmup + 1, (warmup + total) // 2, total - 1, total}
    for step in sorted(s for s in steps | {total + 1, 10 * total} if s >= 0):
        got = function(tf.constant(step, dtype))
        assert got.dtype == tf.float32 and got.shape == ()
        expected = oracle.warmup_cosine(step, peak, warmup, total)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=peak * 1e-6, err_msg=str(step))


def test_python_steps():
    schedule = schedules.WarmupCosine(0.3, 4, 20)
    for step in range(25):
        expected = oracle.warmup_cosine(step, 0.3, 4, 20)
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("peak", "warmup", "total"), RUNS)
def test_corners_are_exact(peak, warmup, total):
    schedule = schedules.WarmupCosine(peak, warmup, total)
    for step in (total, total + 1, total + 12345):
        assert float(schedule(tf.constant(step, tf.int64))) == 0.0
    assert float(schedule(tf.constant(warmup, tf.int64))) == np.float32(peak)
    assert float(schedule(tf.constant(total - 1, tf.int64))) > 0.0
    if warmup:
        assert float(schedule(tf.constant(0, tf.int64))) == 0.0


def test_falls_all_the_way_after_warmup():
    schedule = schedules.WarmupCosine(1.0, 10, 60)
    rates = np.array([float(schedule(step)) for step in range(61)])
    assert np.all(np.diff(rates[:11]) > 0) and np.all(np.diff(rates[10:]) < 0)
    assert rates.argmax() == 10 and rates[35] == pytest.approx(0.5)


def test_long_runs():
    schedule = schedules.WarmupCosine(4.8, 10_000, 1_000_000)
    for step in (9_999, 10_000, 505_000, 999_000):
        got = schedule(tf.constant(step, tf.int64))
        expected = oracle.warmup_cosine(step, 4.8, 10_000, 1_000_000)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert float(schedule(tf.constant(1_000_000, tf.int64))) == 0.0


def test_compiled():
    schedule = schedules.WarmupCosine(0.3, 10, 100)
    compiled = tf.function(schedule.__call__, jit_compile=True)
    for step in (0, 3, 10, 55, 100, 101):
        got = compiled(tf.constant(step, tf.int64))
        np.testing.assert_allclose(got, oracle.warmup_cosine(step, 0.3, 10, 100), atol=1e-7)


def test_round_trips():
    schedule = schedules.WarmupCosine(0.7, 3, 19)
    serialized = tf.keras.optimizers.schedules.serialize(schedule)
    for twin in (
        schedules.WarmupCosine.from_config(schedule.get_config()),
        tf.keras.optimizers.schedules.deserialize(serialized),
    ):
        assert isinstance(twin, schedules.WarmupCosine)
        assert twin.get_config() == schedule.get_config()
        assert [float(twin(s)) for s in range(21)] == [float(schedule(s)) for s in range(21)]


@pytest.mark.parametrize(
    ("peak", "warmup", "total", "received"),
    [
        (-0.5, 1, 10, "-0.5"),
        (math.nan, 1, 10, "nan"),
        (0.3, -3, 10, "-3"),
        (0.3, 0, 0, "0"),
        (0.3, 0, -7, "-7"),
        (0.3, 12, 10, "12"),
    ],
)
def test_bad_arguments(peak, warmup, total, received):
    with pytest.raises(UserError, match=received):
        schedules.WarmupCosine(peak, warmup, total)


def test_scaled_learning_rate():
    # arXiv:2002.05709, section 2.2 (linear) and appendix B.1 (square root).
    assert schedules.scaled_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert schedules.scaled_learning_rate(0.3, 128, "linear") == pytest.approx(0.15)
    assert schedules.scaled_learning_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    assert schedules.scaled_learning_rate(0.2, 100, "sqrt") == pytest.approx(2.0)
    assert schedules.scaled_learning_rate(0.2, 100, "none") == pytest.approx(0.2)
    with pytest.raises(UserError, match="cubic"):
        schedules.scaled_learning_rate(0.2, 100, "cubic")
