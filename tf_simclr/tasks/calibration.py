"""--train_minutes: measures what the parts of a run take here, and chooses how many steps fit.

What is measured is a second model, thrown away before the run's own is built from the seed. So the
training is the same, bit for bit, as with the number of steps given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import math
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr.config import Config
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.distribute import is_chief
from tf_simclr.errors import UserError
from tf_simclr.export import check_exportable, export_encoder
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.report import write_report
from tf_simclr.stack import keras
from tf_simclr.tasks import build, exported, inputs
from tf_simclr.training import Plan
from tf_simclr.training.forecast import Costs, clock_after, in_words, steps_within
from tf_simclr.training.measuring import (
    StepTime,
    measure_steps,
    seconds_to_log,
    seconds_to_save,
    smallest_on_hosts,
)
from tf_simclr.training.stopping import age
from tf_simclr.workdir import Workdir

_AIM = 0.95  # Of the time asked for: the middle of what is promised.
_SHARE, _SHORTEST, _LONGEST = 0.05, 5.0, 120.0  # Of the time, and seconds, to measure steps.
FEWEST = 10  # Steps, below which it is no training.
_REST = 3.0  # Seconds of what is not measured: pictures of views, the end of the process.
_OPEN_END = 2**31  # Steps of a plan whose length is not known yet.
_FOLDER = "calibration"


def settled(config: Config, strategy, source, splits) -> tuple[Config, Any]:
    """The config with the number of steps that fits into --train_minutes.

    Args:
      config: of a pretraining run; without --train_minutes it is returned as it is.
      strategy: the strategy under which the run trains.
      source: the training images.
      splits: those of the evaluation during training, or None.

    Returns:
      (config, `inputs.for_training(config, source)` or None if nothing was measured).

    Raises:
      UserError: the time is too short, or the run has a length already; or what a run would raise.
    """
    if not config.chooses_steps:
        if config.train_minutes:
            logging.info(
                "--train_steps=%d decides how long the run is; --train_minutes=%g is not measured.",
                *(config.train_steps, config.train_minutes),
            )
        return config, None
    plan = open_plan(config, source, strategy.num_replicas_in_sync)
    session = build.session_of(config, strategy, source)
    if session.resumes:
        raise UserError(
            f"--train_minutes={config.train_minutes:g} decides how long a new run is, and "
            f"--workdir={config.workdir} holds one already: resume it without that flag, or pass "
            "--train_steps and --allow_changes to change its length."
        )
    held = inputs.for_training(config, source)
    seconds = min(max(_SHARE * 60 * config.train_minutes, _SHORTEST), _LONGEST)
    with _scratch(session.workdir) as folder:
        costs = costs_of(
            config, strategy, source, splits, held=held, folder=folder, seconds=seconds
        )
    steps = smallest_on_hosts(strategy, steps_for(config, costs, plan, age()))
    if steps < FEWEST:
        raise too_short(config, costs, plan, age())
    logging.info(
        "--train_minutes=%g: %d steps (%.1f epochs). A step takes %.3g s, all the rest %s; the "
        "end is expected at %s.",
        *(config.train_minutes, steps, steps / plan.steps_per_epoch, costs.step),
        in_words(age() + costs.of_run(steps, plan) - steps * costs.step),
        clock_after(costs.of_run(steps, plan)),
    )
    return dataclasses.replace(config, train_steps=steps), held


def open_plan(config: Config, source, replicas: int) -> Plan:
    """The plan of a run whose length is not known yet; raises what `build.plan_of` does."""
    config = dataclasses.replace(config, train_steps=config.train_steps or _OPEN_END)
    return build.plan_of(config, source.num_examples, replicas)


def steps_for(config: Config, costs: Costs, plan: Plan, elapsed: float) -> int:
    """How many steps to train if `elapsed` seconds of --train_minutes have passed."""
    return steps_within(_AIM * 60 * config.train_minutes - elapsed, costs, plan)


def too_short(config: Config, costs: Costs, plan: Plan, elapsed: float) -> UserError:
    """The error where `steps_for` gives too few steps."""
    needed = elapsed + costs.of_run(FEWEST, plan)
    enough = math.ceil(10 * needed / 60 / _AIM) / 10
    return UserError(
        f"--train_minutes={config.train_minutes:g} is too short: {FEWEST} steps take "
        f"{in_words(FEWEST * costs.step)}, and starting, saving and exporting take about "
        f"{in_words(needed - FEWEST * costs.step)}. Pass at least --train_minutes={enough:g}."
    )


def costs_of(
    config: Config, strategy, source, splits, *, held, folder: str, seconds: float
) -> Costs:
    """Measures what the parts of a run take.

    Args:
      config, strategy, source, splits: as `settled`.
      held: the source that is trained on, `inputs.for_training(config, source)`.
      folder: for files, not needed afterwards.
      seconds: how long to measure steps.

    Raises:
      UserError: the encoder cannot be exported, an image cannot be read.
    """
    began = time.monotonic()
    try:
        with build.precision(config):
            model = _trial(config, strategy, source)
            check_exportable(model.encoder, config.image_size, exported.formats_of(config))
            building = time.monotonic() - began
            workdir = Workdir(folder, writes=is_chief(strategy))
            save = seconds_to_save(build.parts_of(model), workdir / "checkpoints")
            first_evaluation, evaluation = _evaluations(config, strategy, model, splits)
            step = time_of_step(config, strategy, held, model, seconds)
            return Costs(
                step=step.each,
                start=building + step.start,
                log=seconds_to_log(model, workdir),
                save=save,
                first_evaluation=first_evaluation,
                evaluation=evaluation,
                end=_seconds_to_end(config, source, model, workdir) + _REST,
            )
    finally:
        model = None
        gc.collect()  # Its memory, and the threads that make its batches.
        keras.backend.reset_uids()  # Layers are named as if it had not existed.


def seconds_of_step(config: Config, strategy, source, held, seconds: float) -> float:
    """Seconds of a pretraining step, its wait for data included; arguments as `costs_of`."""
    with build.precision(config):
        model = _trial(config, strategy, source)
        return time_of_step(config, strategy, held, model, seconds).each


def _trial(config: Config, strategy, source):
    """The model of a run, to be measured and thrown away."""
    plan = open_plan(config, source, strategy.num_replicas_in_sync)
    with strategy.scope():
        return build.simclr_of(config, source.channels, plan, build.probe_classes(config, source))


def time_of_step(config: Config, strategy, held, model, seconds: float) -> StepTime:
    """What a step of pretraining `model` on the images of `held` takes; see `measure_steps`."""
    batches = functools.partial(inputs.two_view_batches, config, held)
    with naming_bad_images(held), strategy.scope():
        return measure_steps(
            model,
            strategy.distribute_datasets_from_function(batches),
            seconds=seconds,
            steps_per_call=min(config.steps_per_execution, config.log_steps),
            jit_compile=config.jit_compile,
        )


def _evaluations(config: Config, strategy, model, splits) -> tuple[float, float]:
    """Seconds of the first evaluation during training, and of each later one."""
    began = time.monotonic()
    evaluate = build.online_evaluation(config, strategy, model.encoder, splits)
    if evaluate is None:
        return 0.0, 0.0
    building = time.monotonic() - began
    first, later = evaluate.expected_seconds()
    return building + first, later


def _seconds_to_end(config: Config, source, model, workdir: Workdir) -> float:
    """Seconds of export and report, which are tried in the scratch folder."""
    began = time.monotonic()
    encoder = plain_copy(model.encoder)  # Every host: means over replicas are read collectively.
    if workdir.writes:
        logging.info("Exporting the untrained encoder once, to know how long that takes.")
        export_encoder(
            encoder,
            workdir / "encoder",
            card=exported.card_of(config, source.name, "untrained"),
            **exported.options_of(config, source),
        )
        write_report(workdir.path)
    return time.monotonic() - began


@contextlib.contextmanager
def _scratch(workdir: Workdir) -> Iterator[str]:
    """A folder in the workdir, on the disk that the run writes to; it is removed."""
    folder = workdir / _FOLDER

    def remove():
        if workdir.writes and tf.io.gfile.exists(folder):
            tf.io.gfile.rmtree(folder)

    remove()  # Left by a run that was killed.
    try:
        yield folder
    finally:
        remove()
