"""The loop over steps: what pretraining and fine-tuning share.

It runs exactly the steps it is told, knows how long they waited for data, shows progress, and
stops at the first step whose loss is no number, before anything of it is saved.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr.errors import UserError
from tf_simclr.tasks.plan import Plan, is_due

_WAITING_TOO_LONG = 0.10  # Share of the time, above which the log says what to do.


def train(
    model: tf.keras.Model,
    dataset,
    plan: Plan,
    *,
    start_step: int,
    batch_size: int,
    steps_per_call: int = 1,
    jit_compile: bool = False,
    save: Callable[[int], Any],
    log: Callable[[dict[str, float]], Any],
    describe: Callable[[dict[str, float]], dict[str, str]],
) -> dict[str, float]:
    """Trains `model` from `start_step` to the end of the plan.

    Args:
      model: compiled; its `train_step` returns metrics, among them "loss".
      dataset: distributed dataset that begins with the batch of `start_step`.
      plan: total, log and checkpoint steps.
      start_step: steps already done.
      batch_size: global, for images per second.
      steps_per_call: at most so many steps in one call of the device's program.
      jit_compile: compile each replica's step with XLA.
      save: called with the step when a checkpoint is due.
      log: called with the metrics of each log interval.
      describe: from metrics to what the progress bar shows.

    Returns:
      The metrics of the last interval.

    Raises:
      UserError: the loss became NaN or infinite; nothing was saved since it did.
    """
    run_steps = _make_run_steps(model, steps_per_call, jit_compile)
    iterator = iter(dataset)
    bad_step = tf.Variable(-1, dtype=tf.int64, trainable=False)
    waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    metrics: dict[str, float] = {}
    step, logged_step, began = start_step, start_step, time.monotonic()
    bar = _progress(start_step, plan.total_steps)
    hinted = False
    model.reset_metrics()
    while step < plan.total_steps:
        count = _steps_until_due(step, plan, steps_per_call)
        run_steps(
            iterator, tf.constant(count, tf.int64), tf.constant(step, tf.int64), bad_step, waited
        )
        step += count
        bar.update(count)
        logging_due = is_due(step, plan.log_steps, plan.total_steps)
        saving_due = is_due(step, plan.checkpoint_steps, plan.total_steps)
        if logging_due or saving_due:
            _stop_if_not_finite(int(bad_step))
        if logging_due:
            seconds = time.monotonic() - began
            metrics = _metrics(model, step)
            metrics["images_per_second"] = (step - logged_step) * batch_size / seconds
            metrics["data_wait"] = min(float(waited) / seconds, 1.0)
            log(metrics)
            bar.set_postfix(describe(metrics), refresh=False)
            if metrics["data_wait"] > _WAITING_TOO_LONG and logged_step > start_step and not hinted:
                hinted = True
                logging.warning(
                    "Steps wait for data %.0f %% of the time: give the host more CPU cores, keep "
                    "the images on a local disk, or store them smaller.",
                    100 * metrics["data_wait"],
                )
            model.reset_metrics()
            waited.assign(0.0)
            logged_step, began = step, time.monotonic()
        if saving_due:
            save(step)
    bar.close()
    return metrics


def _make_run_steps(model, steps_per_call, jit_compile):
    """Builds the device's program: `count` steps, with the time they wait for the next batch."""
    strategy = tf.distribute.get_strategy()
    one_step = tf.function(model.train_step, jit_compile=True) if jit_compile else model.train_step

    def step_once(iterator, step, bad_step, waited):
        asked = tf.timestamp()
        with tf.control_dependencies([asked]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            waited.assign_add(tf.timestamp() - asked)
        logs = strategy.run(one_step, args=(batch,))
        loss = tf.stack(strategy.experimental_local_results(logs["loss"]))
        bad = (bad_step < 0) & ~tf.reduce_all(tf.math.is_finite(loss))
        bad_step.assign(tf.where(bad, step + 1, bad_step))

    @tf.function
    def run_steps(iterator, count, first, bad_step, waited):
        step_once(iterator, first, bad_step, waited)  # May create variables; a loop body may not.
        if steps_per_call > 1:
            for i in tf.range(1, count):
                step_once(iterator, first + i, bad_step, waited)

    return run_steps


def _steps_until_due(step: int, plan: Plan, most: int) -> int:
    """How many steps may run before something is due."""
    due = [every - step % every for every in (plan.log_steps, plan.checkpoint_steps)]
    return min(most, plan.total_steps - step, *due)


def _stop_if_not_finite(bad_step: int) -> None:
    if bad_step >= 0:
        raise UserError(
            f"the loss is NaN or infinite at step {bad_step}; training stopped and the last "
            "checkpoint, from before, is kept. Try a lower --learning_rate, a longer "
            "--warmup_epochs, a higher --temperature, or --precision=float32."
        )


def _metrics(model, step) -> dict[str, float]:
    metrics = {m.name: float(m.result()) for m in model.metrics}
    rate = model.optimizer.learning_rate
    rate = rate(step - 1) if callable(rate) else rate  # Of the last step taken.
    return {"step": step, **metrics, "learning_rate": float(rate)}


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
