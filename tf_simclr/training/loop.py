"""The loop over steps, shared by pretraining and fine-tuning.

It runs exactly the steps of the plan, measures how long they wait for data, and shows progress. It
stops when asked to, and when the loss becomes NaN or infinite, before that state is saved.
"""

from __future__ import annotations

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr.distribute import on_replicas, several_hosts
from tf_simclr.errors import Stopped, UserError
from tf_simclr.stack import keras
from tf_simclr.training.forecast import clock_after, in_words
from tf_simclr.training.hosts import Watch
from tf_simclr.training.plan import Plan, is_due
from tf_simclr.training.stopping import StopRequest

_LONG = 300.0  # Seconds left above which the log says how long.
_WAITING_TOO_LONG = 0.10  # Share of the time above which the log gives advice.


class Checkpoints(Protocol):
    """Where the loop saves: `RunCheckpoints`."""

    def save(self, step: int) -> None: ...

    def newest(self, before: int | None = None) -> str: ...


def train(
    model: keras.Model,
    dataset,
    plan: Plan,
    *,
    start_step: int,
    batch_size: int,
    steps_per_call: int = 1,
    jit_compile: bool = False,
    skip_bad_steps: int = 0,
    max_minutes: float = 0.0,
    checkpoints: Checkpoints,
    log: Callable[[dict[str, float]], Any],
    describe: Callable[[dict[str, float]], dict[str, str]],
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Trains `model` from `start_step` to the end of the plan.

    Args:
      model: compiled; its `train_step` returns metrics that include "loss".
      dataset: distributed dataset that begins with the batch of `start_step`.
      plan: total, log, checkpoint and evaluation steps.
      start_step: steps already done.
      batch_size: global batch, for images per second.
      steps_per_call: maximum number of steps in one call of the device's program.
      jit_compile: whether to compile each replica's step with XLA.
      skip_bad_steps: how many steps of a log interval may skip their update, by the metric
        "skipped_steps", before the run stops.
      max_minutes: age of the process at which the run saves and stops; 0: no limit.
      checkpoints: saves when a checkpoint is due, and when the run is asked to stop.
      log: called with the metrics of each log interval. At an evaluation within an interval it is
        also called, with the metrics of the interval so far, and the interval continues.
      describe: function from metrics to what the progress bar shows.
      evaluate: called at the plan's evaluation steps. Its result and "eval_seconds" are added to
        the metrics. Those seconds count neither as training nor as waiting for data.

    Returns:
      The metrics of the last interval.

    Raises:
      UserError: the loss became NaN or infinite; nothing has been saved since then.
      Stopped: SIGTERM, SIGINT or the end of `max_minutes`, on any host; everything is saved.
    """
    run_steps = make_run_steps(model, steps_per_call, jit_compile)
    iterator = iter(dataset)
    interval = _Interval(checkpoints, skip_bad_steps)
    metrics: dict[str, float] = {}
    step, saved_step, hinted = start_step, start_step, False
    bar = _progress(start_step, plan.total_steps)
    model.reset_metrics()
    with StopRequest(max_minutes) as stop, Watch() as watch, bar:
        while step < plan.total_steps:
            count = _steps_until_due(step, plan, steps_per_call)
            asked = tf.constant(stop.reason is not None)
            with watch.step(step + 1):
                outcome = run_steps(iterator, tf.constant(count, tf.int64), asked, watch.waiting)
            step += count
            bar.update(count)
            logging_due = is_due(step, plan.log_steps, plan.total_steps)
            saving_due = is_due(step, plan.checkpoint_steps, plan.total_steps)
            evaluation_due = evaluate is not None and is_due(
                step, plan.eval_steps, plan.total_steps
            )
            settle = logging_due or saving_due or evaluation_due
            interval.add(outcome, step, count, settle=settle)
            if logging_due or evaluation_due:
                metrics = metrics_of(model, step) | interval.rates(batch_size)
                if evaluation_due:
                    metrics |= _evaluated(evaluate, interval, bar)
                log(metrics)
            if logging_due:
                bar.set_postfix(describe(metrics), refresh=False)
                waits = metrics.get("data_wait", 0.0) > _WAITING_TOO_LONG
                if waits and interval.number > 1 and not hinted:
                    hinted = True
                    logging.warning(
                        "Steps wait for data %.0f %% of the time: give the host more CPU cores, "
                        "keep the images on a local disk, or reduce large ones by --cache_side.",
                        100 * metrics["data_wait"],
                    )
                if interval.number == 2 and step < plan.total_steps:  # The first one compiled.
                    left = (plan.total_steps - step) * interval.seconds_per_step()
                    if left > _LONG:
                        logging.info("About %s left, until %s.", in_words(left), clock_after(left))
                model.reset_metrics()
                interval.begin()
            stopping = step < plan.total_steps and interval.asked_to_stop(stop)
            if saving_due or stopping:
                interval.settle()
                checkpoints.save(step)
                saved_step = step
            if stopping:
                why = stop.reason or "another host was asked to stop"
                raise Stopped(
                    f"stopped at step {saved_step} of {plan.total_steps}, which is saved: {why}. "
                    "The same command resumes from there."
                )
    return metrics


def _evaluated(evaluate, interval: _Interval, bar: tqdm) -> dict[str, float]:
    bar.set_description_str("evaluating ", refresh=True)
    with interval.paused() as seconds:
        numbers = evaluate()
    bar.set_description_str("", refresh=False)
    return {**numbers, "eval_seconds": seconds()}


def make_run_steps(model, steps_per_call, jit_compile):
    """Builds the device's program, which runs `count` steps and measures their wait for data.

    It returns [bad, stops, skipped, waited], float64:
      bad: number of steps with a NaN or infinite loss, and of steps after the first such step.
      stops: number of hosts that are asked to stop.
      skipped: number of skipped steps since the metrics were reset.
      waited: seconds that this host waited; the others are the same on every host.
    """
    strategy = tf.distribute.get_strategy()
    run = on_replicas(strategy, model.train_step, jit_compile)
    now = tf.timestamp if _has_clock() else lambda: tf.constant(math.nan, tf.float64)

    def step_once(iterator, waiting):
        asked = now()
        with tf.control_dependencies([asked, waiting.assign(True)]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            waited = now() - asked
            arrived = waiting.assign(False)
        # On a single core a thread could otherwise read the time after the work of the step.
        with tf.control_dependencies([waited, arrived]):
            logs = run(args=(batch,))
        # Keras' metrics are already combined over the replicas of all hosts. Under XLA each local
        # replica returns its own, equal copy. All copies are read: a replica whose copy is unused
        # could skip the collective that the others wait in.
        local = strategy.experimental_local_results
        finite = tf.reduce_all(tf.math.is_finite(tf.stack(local(logs["loss"]))))
        skipped = tf.reduce_max(tf.stack(local(logs.get("skipped_steps", 0.0))))
        return finite, skipped, waited

    def count_on_all_hosts(asked):
        if not several_hosts(strategy):
            return asked
        return strategy.reduce(tf.distribute.ReduceOp.SUM, asked, axis=None)

    @tf.function
    def run_steps(iterator, count, stop, waiting):
        # The first step may create variables, which is not allowed in the body of a loop.
        finite, skipped, waited = step_once(iterator, waiting)
        good = tf.cast(finite, tf.int64)
        if steps_per_call > 1:
            for _ in tf.range(1, count):
                finite, skipped, more = step_once(iterator, waiting)
                waited += more
                good += tf.cast(finite, tf.int64)  # A running mean that is NaN stays NaN.
        stops = count_on_all_hosts(tf.cast(stop, tf.float64))
        bad, skipped = (tf.cast(value, tf.float64) for value in (count - good, skipped))
        return tf.stack([bad, stops, skipped, waited])

    return run_steps


class _Interval:
    """Collects the results of all calls since the last log line.

    The result of a call is read only after the next call was started, or when something is due, so
    that the host does not wait for the device at every call.
    """

    def __init__(self, checkpoints: Checkpoints, skip_bad_steps: int):
        self._checkpoints = checkpoints
        self._allowed = skip_bad_steps
        self._unread = collections.deque()
        self._stops = 0.0
        self.number = 0
        self.begin()

    def begin(self) -> None:
        self.number += 1
        self._began, self._steps, self._waited = time.monotonic(), 0, 0.0

    @contextlib.contextmanager
    def paused(self):
        """Excludes the time within the block. Yields a function: seconds since the block began."""
        entered = time.monotonic()
        try:
            yield lambda: time.monotonic() - entered
        finally:
            self._began += time.monotonic() - entered

    def add(self, outcome: tf.Tensor, step: int, count: int, settle: bool) -> None:
        """Adds the result of `run_steps` for the `count` steps that end with `step`."""
        self._steps += count
        self._unread.append((outcome, step))
        self.settle(left=0 if settle else 1)

    def settle(self, left: int = 0) -> None:
        """Reads the results of all calls but the last `left`.

        Raises:
          UserError: a loss was NaN or infinite, or too many steps were skipped.
        """
        while len(self._unread) > left:
            outcome, step = self._unread.popleft()
            bad, stops, skipped, waited = outcome.numpy()
            self._stops += stops
            self._waited += waited
            newest = self._checkpoints.newest()
            if bad:
                raise UserError(
                    f"the loss is NaN or infinite at step {int(step - bad) + 1}; training stopped, "
                    f"and the last checkpoint, from before, is kept: {newest}. Try a lower "
                    "--learning_rate, a longer --warmup_epochs, a higher --temperature, "
                    "--precision=float32, or --skip_bad_steps."
                )
            if self._allowed and skipped > self._allowed:
                raise UserError(
                    f"{int(skipped)} steps since the last log line had a gradient that is NaN or "
                    f"infinite, the newest by step {step}; --skip_bad_steps={self._allowed} passes "
                    f"over fewer. The last checkpoint is kept: {newest}. Try a lower "
                    "--learning_rate, or --precision=float32."
                )

    def asked_to_stop(self, stop: StopRequest) -> bool:
        """Whether any host is asked to stop; all hosts get the same answer."""
        if several_hosts(tf.distribute.get_strategy()):
            return self._stops > 0
        return stop.reason is not None

    def seconds_per_step(self) -> float:
        return (time.monotonic() - self._began) / self._steps

    def rates(self, batch_size: int) -> dict[str, float]:
        seconds = time.monotonic() - self._began
        rates = {"images_per_second": self._steps * batch_size / seconds}
        if not math.isnan(self._waited):
            rates["data_wait"] = min(self._waited / seconds, 1.0)
        return rates


def _has_clock() -> bool:
    """Whether a device's program can read the time, which `--deterministic` does not allow."""
    try:
        tf.timestamp()
        return True
    except tf.errors.FailedPreconditionError:
        return False


def _steps_until_due(step: int, plan: Plan, most: int) -> int:
    """How many steps may run before something is due."""
    events = (plan.log_steps, plan.checkpoint_steps, plan.eval_steps)
    due = [every - step % every for every in events if every]
    return min(most, plan.total_steps - step, *due)


def metrics_of(model, step) -> dict[str, float]:
    metrics = {m.name: float(m.result()) for m in model.metrics}
    optimizer = model.optimizer
    rate = optimizer.learning_rate
    rate = rate(step - 1) if callable(rate) else rate  # The rate of the last completed step.
    if model.dtype_policy.name == "mixed_float16":
        metrics["loss_scale"] = float(optimizer.loss_scale)
    return {"step": step, **metrics, "learning_rate": float(tf.convert_to_tensor(rate))}


def _progress(start_step: int, total_steps: int) -> tqdm:
    live = sys.stderr.isatty()
    return tqdm(
        initial=start_step,
        total=total_steps,
        unit="step",
        mininterval=0.5 if live else 10.0,
        maxinterval=0.5 if live else 10.0,
        dynamic_ncols=live,
        ascii=not live,
        bar_format="{desc}{percentage:3.0f}% {bar:20} {n_fmt}/{total_fmt} "
        "[{elapsed}<{remaining}]{postfix}",
    )
