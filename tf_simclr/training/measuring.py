"""Measures what the parts of a run take, on a model that is thrown away afterwards."""

from __future__ import annotations

import collections
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.checkpoints import RunCheckpoints
from tf_simclr.distribute import host_names, several_hosts
from tf_simclr.stack import keras
from tf_simclr.training.loop import make_run_steps, metrics_of
from tf_simclr.workdir import Workdir

_LEAST_CALLS = 3  # After the first.
_SETTLING = 0.3  # Share of the time in which buffers fill and tf.data tunes itself: not counted.
_GROUPS = 5


@dataclasses.dataclass(frozen=True)
class StepTime:
    """What steps take, in seconds.

    Attributes:
      each: a step.
      start: how much longer the first steps took together: tracing, compiling, filling buffers.
    """

    each: float
    start: float


def measure_steps(
    model: keras.Model,
    dataset,
    *,
    seconds: float,
    steps_per_call: int = 1,
    jit_compile: bool = False,
) -> StepTime:
    """Trains `model` for some steps and measures them; call it under the strategy.

    The program is the one that `training.loop.train` would run. On several hosts every host must
    call this; they all take the same number of steps.

    Args:
      model: compiled; it is trained, so give it one that is not needed afterwards.
      dataset: distributed dataset of the batches.
      seconds: how long to measure after the first call, which traces and compiles. It takes longer
        where fewer than three calls fit.
      steps_per_call, jit_compile: as `training.loop.train`.
    """
    began = time.monotonic()
    run_steps = make_run_steps(model, steps_per_call, jit_compile)
    together = several_hosts(tf.distribute.get_strategy())
    with tf.device("/cpu:0"):
        waiting = tf.Variable(False, trainable=False)
    iterator, count = iter(dataset), tf.constant(steps_per_call, tf.int64)
    unread: collections.deque[tf.Tensor] = collections.deque()
    ends: list[float] = []
    stopping = False
    with _progress() as bar:
        bar.set_description_str("Measuring: the first step also compiles")
        while not stopping:
            last = len(ends) >= _LEAST_CALLS and _time_is_over(ends, seconds)
            unread.append(run_steps(iterator, count, tf.constant(last), waiting))
            # As in training a call is read after the next has begun, so that the host is ahead of
            # the device, and all hosts stop after the same call. The first one is awaited.
            while len(unread) > (1 if ends else 0):
                stopping |= bool(unread.popleft().numpy()[1])
            ends.append(time.monotonic())
            stopping |= last and not together
            bar.set_description_str("Measuring", refresh=False)
            bar.update(steps_per_call)
        for outcome in unread:
            outcome.numpy()
    return step_time(ends[0] - began, np.diff(ends), steps_per_call)


def step_time(first: float, later: np.ndarray, steps_per_call: int = 1) -> StepTime:
    """The time of a step from the seconds of the first call and of each later one, in order.

    It is the median of the means of some groups of calls: a mean, because a run adds up its steps,
    and a median, because a single disturbance should not count. The first calls are left out, as
    they take batches that were made while the program was compiled.
    """
    settling = int(np.searchsorted(np.cumsum(later), _SETTLING * np.sum(later))) + 1
    skipped = max(min(settling, len(later) - _LEAST_CALLS + 1), 0)
    kept = later[skipped:]
    groups = np.array_split(kept, min(_GROUPS, len(kept)))
    each = float(np.median([np.mean(group) for group in groups])) / steps_per_call
    spent = first + float(np.sum(later[:skipped]))
    return StepTime(each, max(spent - each * steps_per_call * (1 + skipped), 0.0))


def seconds_to_save(parts: dict[str, Any], folder: str) -> float:
    """Seconds to save a checkpoint of `parts`; every host must call this."""
    checkpoints = RunCheckpoints(folder, keep=1, **parts)
    return _least_of_two(lambda number: checkpoints.save(number))


def seconds_to_log(model: keras.Model, workdir: Workdir) -> float:
    """Seconds to write a line of metrics; a step must have been trained."""
    writer = workdir.summary_writer()

    def log(number: int) -> None:
        workdir.write_metrics(metrics_of(model, number), writer)

    return _least_of_two(log)


def smallest_on_hosts(strategy: tf.distribute.Strategy, value: int) -> int:
    """The smallest of the hosts' values; every host must call this."""
    names, own = host_names(strategy)
    if len(names) < 2:
        return value
    # Each host fills its own place, and the mean is over hosts, as all have as many replicas.
    mine = np.zeros([len(names)])
    mine[own] = value * len(names)
    values = strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.constant(mine, tf.float64), axis=None)
    return int(round(float(tf.reduce_min(values))))


def _least_of_two(work: Callable[[int], Any]) -> float:
    """Seconds of `work`, called with 1 and then 2: the first call also prepares.

    Always twice, as all hosts must call what is collective equally often.
    """
    seconds = []
    for number in (1, 2):
        began = time.monotonic()
        work(number)
        seconds.append(time.monotonic() - began)
    return min(seconds)


def _time_is_over(ends: list[float], seconds: float) -> bool:
    """Whether another call would end after `seconds` since the first call."""
    newest = ends[-1] - ends[-2]
    return time.monotonic() + newest - ends[0] >= seconds


def _progress() -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(
        unit="step",
        mininterval=0.5 if live else 10.0,
        ascii=not live,
        bar_format="{desc}, {n_fmt} steps, {elapsed}",
    )
