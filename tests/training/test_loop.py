"""What a call of the device's program reports, whichever way the replicas return their metrics."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.replicas import mirrored
from tests.small_runs import run
from tf_simclr.training import loop


def report(losses, skipped, steps_per_call=1, hosts=False):
    """[bad, stops, skipped, waited] of one call on two replicas, each with its own copy of the
    metrics, as under XLA on several GPUs: all of them are already global."""

    def train_step(batch):
        copy = tf.distribute.get_replica_context().replica_id_in_sync_group
        zero = tf.cast(copy, tf.float32) * 0.0  # A tensor of this replica alone.
        return {"loss": batch[0] + zero, "skipped_steps": batch[1] + zero}

    strategy = mirrored(2)
    with strategy.scope():
        run_steps = loop.make_run_steps(
            types.SimpleNamespace(train_step=train_step), steps_per_call, jit_compile=False
        )
        data = tf.data.Dataset.from_tensor_slices(np.array([losses, skipped], np.float32).T)
        iterator = iter(strategy.distribute_datasets_from_function(lambda _: data.repeat(2)))
        waiting = tf.Variable(False)
        count = tf.constant(len(losses), tf.int64)
        return run_steps(iterator, count, tf.constant(True), waiting).numpy()


@pytest.mark.parametrize("skipped", [0.0, 1.0, 3.0])
def test_skipped_steps_are_counted_once_whatever_the_replicas(skipped):
    bad, stops, counted, _ = report([2.0], [skipped])
    assert (bad, stops, counted) == (0, 1, skipped)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_counts_once(value):
    bad, _, _, _ = report([value], [0.0])
    assert bad == 1


def test_the_running_count_of_the_last_step_is_the_one_reported():
    bad, _, counted, _ = report([2.0] * 6, [0, 0, 1, 1, 2, 2], steps_per_call=3)
    assert (bad, counted) == (0, 2)


def test_a_long_run_says_once_how_long_it_will_take(tmp_path, tiny_encoder, no_export, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "info", lambda message, *args: said.append(message % args))
    run(tmp_path / "short")
    assert not [line for line in said if line.startswith("About ")]
    monkeypatch.setattr(loop, "_LONG", 0.0)
    run(tmp_path / "long")
    (line,) = [line for line in said if line.startswith("About ")]
    assert "left, until " in line
