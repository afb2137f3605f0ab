"""The time of a step from those of calls, and how many steps are measured."""

from __future__ import annotations

import types

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tf_simclr.training import measuring


@pytest.mark.parametrize(
    ("first", "later", "steps_per_call", "each", "start"),
    [
        (9.0, [2.0, 2.0, 2.0], 1, 2.0, 7.0),
        (9.0, [2.0] * 40, 1, 2.0, 7.0),
        (9.0, [2.0] * 40, 4, 0.5, 7.0),
        # Buffers that were full at the start: 4 quick calls are less than 0.3 of the time, and the
        # fifth reaches it. 9 + 4 * 0.5 + 3 * 2 seconds for 8 steps of 2.
        (9.0, [0.5] * 4 + [2.0] * 9, 1, 2.0, 1.0),
        (9.0, [2.0] * 20 + [50.0] + [2.0] * 19, 1, 2.0, None),  # One disturbance.
        (9.0, [1.0, 3.0] * 40, 1, 2.0, None),  # A mean, where a median of calls would be 1 or 3.
        (0.1, [2.0] * 10, 1, 2.0, 0.0),
    ],
)
def test_the_time_of_a_step(first, later, steps_per_call, each, start):
    found = measuring.step_time(first, np.array(later), steps_per_call)
    assert found.each == pytest.approx(each, rel=0.03)
    assert start is None or found.start == pytest.approx(start)


@pytest.mark.parametrize(("replicas", "steps_per_call"), [(1, 1), (2, 3)])
def test_at_least_three_calls_after_the_first_are_measured(replicas, steps_per_call):
    trained = []

    def train_step(batch):
        tf.py_function(lambda: trained.append(1), [], [])
        return {"loss": batch}

    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        data = strategy.distribute_datasets_from_function(
            lambda _: tf.data.Dataset.from_tensors(1.0).repeat()
        )
        found = measuring.measure_steps(
            types.SimpleNamespace(train_step=train_step),
            data,
            seconds=0.0,
            steps_per_call=steps_per_call,
        )
    assert len(trained) == 4 * steps_per_call * replicas
    assert found.each > 0 and found.start >= 0


def test_on_one_host_its_own_number_is_the_smallest():
    assert measuring.smallest_on_hosts(mirrored(2), 7) == 7


def test_the_smallest_number_of_all_hosts(monkeypatch):
    """The hosts' vectors are added up by a strategy that stands for two others with 5 and 9."""
    monkeypatch.setattr(measuring, "host_names", lambda _: (["a", "b", "c"], 1))

    class Together:
        def reduce(self, how, value, axis):
            assert how == tf.distribute.ReduceOp.MEAN and axis is None
            return (value + tf.constant([15.0, 0.0, 27.0], tf.float64)) / 3

    assert measuring.smallest_on_hosts(Together(), 7) == 5
    assert measuring.smallest_on_hosts(Together(), 2) == 2
