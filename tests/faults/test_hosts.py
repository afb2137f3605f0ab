"""Two processes with TF_CONFIG: the same run as in one process, and the loss of a process."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from tests.faults.runs import (
    TEN,
    Process,
    assert_same_weights,
    clusters,
    losses,
    metrics,
    run,
    steps_logged,
)
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.errors import STOPPED


def start(folder, name="two", prelude=("", ""), **settings):
    return [
        Process(folder / name, folder / f"{name}.{i}", env, prelude=prelude[i], **settings)
        for i, env in enumerate(clusters())
    ]


def check_like_one(folder, **settings):
    hosts = start(folder, **settings)
    assert [host.end() for host in hosts] == [0, 0], hosts[0].said() + hosts[1].said()
    run(folder / "one", folder / "log", strategy="mirrored", virtual_cpus=2, **settings)
    assert losses(folder / "two") == losses(folder / "one")
    assert_same_weights(folder / "two", folder / "one")


def test_two_hosts_are_like_two_replicas_of_one(tmp_path):
    # 512 pairs: the streaming loss; LARS and synchronised batch normalisation are the defaults.
    check_like_one(tmp_path, **TEN)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", [0, 64])
def test_two_hosts_are_like_one_replica(micro_batch_size, tmp_path):
    settings = {**TEN, "micro_batch_size": micro_batch_size}
    hosts = start(tmp_path, **settings)
    assert [host.end() for host in hosts] == [0, 0], hosts[0].said() + hosts[1].said()
    run(tmp_path / "one", tmp_path / "log", **settings)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    # Compares all trained weights as one vector: the gradient of a beta near 0 is mostly rounding.
    # Moving averages are left out: with micro-batches they are updated once per part of a replica.
    two, one = (
        np.concatenate([w.numpy().ravel() for w in load_encoder_from(folder).trainable_weights])
        for folder in (tmp_path / "two", tmp_path / "one")
    )
    assert np.linalg.norm(two - one) <= 1e-4 * np.linalg.norm(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"micro_batch_size": 64},
        {"rematerialize": True, "train_batch_size": 64},
        {"lineareval_while_pretraining": True, "optimizer": "adamw", "train_batch_size": 64},
        {"steps_per_execution": 3, "skip_bad_steps": 2, "train_batch_size": 64},
        {"eval_every_epochs": 0.2, "global_bn": False, "train_batch_size": 64},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_two_hosts_are_like_one_in_every_way(settings, tmp_path):
    ten = {**TEN, **settings}
    ten["warmup_epochs"] = 9.9 * ten["train_batch_size"] / 1297
    check_like_one(tmp_path, **ten)


# Makes the gradient of one step NaN on all replicas.
_BAD_STEP = """
import tensorflow as tf
from tf_simclr.losses import NTXent
from tf_simclr.tasks import build
counters, simclr_of, contrast_of = [], build.simclr_of, NTXent.contrast
def counting(*args):
    on_read, one = tf.VariableSynchronization.ON_READ, tf.VariableAggregation.ONLY_FIRST_REPLICA
    counters.append(tf.Variable(0, synchronization=on_read, aggregation=one, trainable=False))
    return simclr_of(*args)
def bad_once(*args):
    contrast = contrast_of(*args)
    step = counters[0].assign_add(1, read_value=True)
    factor = tf.where(tf.equal(step, {step}), float("nan"), 1.0)
    return contrast._replace(loss=contrast.loss * factor)
build.simclr_of, NTXent.contrast = counting, bad_once
"""
_SIX = {**TEN, "train_steps": 6, "train_batch_size": 64, "warmup_epochs": 0.1, "log_steps": 6}


@pytest.mark.slow
def test_two_hosts_count_a_skipped_step_once(tmp_path):
    prelude = (_BAD_STEP.format(step=3),) * 2
    hosts = start(tmp_path, prelude=prelude, skip_bad_steps=1, **_SIX)
    assert [host.end() for host in hosts] == [0, 0], hosts[0].said() + hosts[1].said()
    assert metrics(tmp_path / "two")[-1]["skipped_steps"] == 1


@pytest.mark.slow
def test_two_hosts_name_the_step_that_became_nan(tmp_path):
    prelude = (_BAD_STEP.format(step=5),) * 2
    hosts = start(tmp_path, prelude=prelude, steps_per_execution=3, **_SIX)
    assert [host.end() for host in hosts] == [2, 2], hosts[0].said() + hosts[1].said()
    for host in hosts:
        assert "the loss is NaN or infinite at step 5;" in host.said()


def check_other_ends(folder, lost: int, number: signal.Signals):
    """Stops one of two hosts; returns the seconds until the other ended."""
    hosts = start(folder, "broken")
    assert hosts[0].wait_for(lambda: steps_logged(folder / "broken") >= 17)
    hosts[lost].send(number)
    began = time.monotonic()
    other = hosts[1 - lost]
    try:
        assert other.end(60) == STOPPED, other.said()
    finally:
        hosts[lost].send(signal.SIGKILL)
        hosts[lost].end()
    seconds = time.monotonic() - began
    assert f"worker {lost} (127.0.0.1:" in other.said().splitlines()[-1]
    assert "was lost, so this host stops too" in other.said().splitlines()[-1]
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_host_ends_the_other_and_both_go_on(lost, tmp_path, capsys):
    seconds = check_other_ends(tmp_path, lost, signal.SIGKILL)
    with capsys.disabled():
        print(f"\nworker {lost} killed: the other ended after {seconds:.0f} s")
    for name in ("broken", "whole"):
        hosts = start(tmp_path, name)
        assert [host.end() for host in hosts] == [0, 0], hosts[0].said() + hosts[1].said()
    assert_same_weights(tmp_path / "broken", tmp_path / "whole")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_frozen_host_ends_the_other(tmp_path):
    check_other_ends(tmp_path, 1, signal.SIGSTOP)


@pytest.mark.slow
def test_one_host_is_asked_to_stop_and_both_save(tmp_path):
    hosts = start(tmp_path, "stopped")
    assert hosts[0].wait_for(lambda: steps_logged(tmp_path / "stopped") >= 10)
    hosts[1].send(signal.SIGTERM)
    assert [host.end(120) for host in hosts] == [STOPPED, STOPPED], hosts[0].said()
    assert "another host was asked to stop" in hosts[0].said().splitlines()[-1]
    for name in ("stopped", "whole"):
        hosts = start(tmp_path, name)
        assert [host.end() for host in hosts] == [0, 0], hosts[0].said() + hosts[1].said()
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


_NO_DATA = """
import time
import tensorflow as tf
from tf_simclr.tasks import pretrain
from tf_simclr.training import hosts
hosts.HANGING_AFTER = 8.0
original = pretrain.two_view_dataset
def starving(*args, input_context=None, **kwargs):
    views = original(*args, input_context=input_context, **kwargs)
    if input_context is None:
        return views
    def sleep(i):
        time.sleep(1000 if i > 12 else 0)
        return i
    slow = tf.data.Dataset.counter().map(lambda i: tf.numpy_function(sleep, [i], tf.int64))
    return tf.data.Dataset.zip((views, slow)).map(lambda batch, _: batch)
pretrain.two_view_dataset = starving
"""


@pytest.mark.slow
def test_a_host_without_data_is_named(tmp_path):
    patience = "from tf_simclr.training import hosts\nhosts.HANGING_AFTER = 8.0"
    hosts = start(tmp_path, "hanging", prelude=(patience, _NO_DATA))
    assert [host.end(120) for host in hosts] == [STOPPED, STOPPED]
    for host in hosts:
        assert "worker 1 (127.0.0.1:" in host.said() and "waits for data" in host.said()
    said = hosts[0].said().splitlines()[-1]
    assert "worker 0" in said and "waits for the others; worker 1" in said


_CHOOSES = """
from tf_simclr.tasks import calibration
calibration.steps_for = lambda *args: {}
calibration.FEWEST = 1
"""


@pytest.mark.slow
def test_hosts_that_measure_different_times_train_equally_long(tmp_path):
    settings = {**_SIX, "train_steps": None, "train_minutes": 3}
    prelude = tuple(map(_CHOOSES.format, (6, 5)))
    hosts = start(tmp_path, prelude=prelude, **settings)
    assert [host.end() for host in hosts] == [0, 0], hosts[0].said() + hosts[1].said()
    assert [line["step"] for line in metrics(tmp_path / "two")] == [5]
    assert "--train_steps=5\n" in (tmp_path / "two" / "flags.resolved").read_text()
