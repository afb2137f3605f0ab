"""One training run in its workdir. Every training mode does the following, in this order:

1. Decides which host writes: with several hosts, only the chief.
2. Checks that the workdir is free or holds this run, started on the same images.
3. Restores the newest checkpoint or, without one, initialises the model.
4. Checks that all hosts are at the same step.
5. Trains, with a guard, metrics.jsonl, TensorBoard, progress and checkpoints.
6. Exports the encoder with its card, and writes the report.

1 and 2 are in `Session(...)`, 3 and 4 in `start`, 5 in `train`, 6 in `hand_over`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr.checkpoints import RunCheckpoints
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.distribute import is_chief, several_hosts
from tf_simclr.errors import UserError
from tf_simclr.export import export_encoder
from tf_simclr.report import write_report
from tf_simclr.stack import keras
from tf_simclr.training.guards import Guard
from tf_simclr.training.loop import train
from tf_simclr.training.plan import Plan, is_due
from tf_simclr.workdir import Identity, Workdir, check_same_images


class Session:
    """A run in a workdir.

    Attributes:
      workdir: its files; `workdir.writes` is whether this host writes them.
      resumes: whether there are checkpoints to resume from.
      step: steps done so far; known after `start`.
    """

    def __init__(
        self,
        path: str,
        strategy: tf.distribute.Strategy,
        source,
        run: Identity,
        *,
        allow_changes: bool = False,
        keep_checkpoints: int = 5,
    ):
        """Checks that the run can start or resume in the folder; writes nothing.

        Args:
          path: the workdir.
          strategy: the strategy under which the run trains.
          source: the training images.
          run: the run's settings.
          allow_changes: whether to resume even if settings, images or the model differ.
          keep_checkpoints: how many checkpoints to keep.

        Raises:
          UserError: the folder holds another run, or one started on other images.
        """
        self.workdir = Workdir(path, writes=is_chief(strategy))
        self.workdir.check_is_of(run, allow_changes)
        check_same_images(self.workdir / "checkpoints", source, allow_changes)
        self._strategy = strategy
        self._source = source
        self._run = run
        self._allow_changes = allow_changes
        self._keep = keep_checkpoints
        self._checkpoints = RunCheckpoints(self.workdir / "checkpoints")
        self.resumes = self._checkpoints.latest_step() is not None
        self.step = 0
        self._lines: list[dict[str, Any]] = []

    def start(
        self,
        parts: dict[str, Any],
        *,
        manifest: dict,
        initialise: Callable[[], None] | None = None,
    ) -> None:
        """Restores the newest checkpoint or initialises the model; then saves the run's settings.

        Args:
          parts: the contents of a checkpoint, as for `RunCheckpoints`.
          manifest: facts to write alongside the checkpoints.
          initialise: a function that sets the model's weights. It is called, under the strategy,
            only if no checkpoint was restored. None: the weights stay as they are.

        Raises:
          UserError: the checkpoint does not fit, or other hosts have restored a different one.
        """
        self._checkpoints = RunCheckpoints(
            self.workdir / "checkpoints", keep=self._keep, manifest=manifest, **parts
        )
        step = self._checkpoints.restore_latest(self._allow_changes)
        if step is None and initialise is not None:
            with self._strategy.scope():
                initialise()
        self.step = step or 0
        self._check_same_step()
        self.workdir.write_settings(self._run)
        if self.workdir.writes:
            self._source.remember()
        self._lines = self.workdir.metrics_until(self.step)

    def train(
        self,
        model: keras.Model,
        plan: Plan,
        source,
        dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset],
        *,
        batch_size: int,
        levels: dict[str, float],
        show: Callable[[dict[str, float]], dict[str, str]],
        largest_rank: int = 0,
        on_trouble: str = "stop",
        before: Callable[[tf.summary.SummaryWriter], None] | None = None,
        **options,
    ) -> dict[str, float]:
        """Trains from `step` to the end of the plan, which must be later than `step`.

        Args:
          model: compiled, with a `train_step`.
          plan: how long to train, and when to log, save and evaluate.
          source: the images, to name those that cannot be read.
          dataset: function from an input context to the batches from `step` on.
          batch_size: global batch, in images.
          levels: reference losses by name, written to every line of metrics. The guard takes the
            highest as the loss of a model that has learned nothing.
          show: function from metrics to what the progress bar shows before the speed.
          largest_rank: the largest possible "effective_rank"; 0: the guard ignores that metric.
          on_trouble: "stop" or "warn".
          before: called once with TensorBoard's writer, before the first step.
          **options: of `training.loop.train`, such as `evaluate`.

        Returns:
          The metrics of the last line.

        Raises:
          UserError: the loss or the embeddings failed a check; the last good checkpoint is kept.
          Stopped: the run was asked to stop; everything is saved.
        """
        writer = self.workdir.summary_writer()
        nothing_known = max(levels.values(), default=-math.inf)

        def ends_interval(line):
            """Whether a line ends a log interval, and was not written only for an evaluation: the
            guard, and so the training, must not depend on evaluations."""
            due = is_due(line["step"], plan.log_steps, plan.total_steps)
            return due or "eval_seconds" not in line

        lines = list(filter(ends_interval, self._lines))
        guard = Guard(lines, self._checkpoints, nothing_known, on_trouble, largest_rank)

        def log(metrics):
            metrics.update(levels)
            self.workdir.write_metrics(metrics, writer)
            if ends_interval(metrics):
                guard.check(metrics)

        with naming_bad_images(source):
            if before is not None and self.workdir.writes:
                before(writer)
            with self._strategy.scope():
                metrics = train(
                    model,
                    self._strategy.distribute_datasets_from_function(dataset),
                    plan,
                    start_step=self.step,
                    batch_size=batch_size,
                    checkpoints=self._checkpoints,
                    log=log,
                    describe=lambda metrics: {**show(metrics), **_speed(metrics)},
                    **options,
                )
        self.step = plan.total_steps
        return metrics

    def hand_over(self, encoder: keras.Model, *, card: dict, **export: Any) -> None:
        """Exports the encoder and writes the report; with several hosts, only the chief does.

        Args:
          encoder: a plain copy, float32.
          card: what the encoder's card says about how it was made.
          export: other arguments of `export_encoder`.

        Raises:
          UserError: the encoder cannot be exported in all formats that are asked for.
        """
        if not self.workdir.writes:
            return
        card = {**card, "results": self.workdir.results()}
        try:
            folder = export_encoder(encoder, self.workdir / "encoder", card=card, **export)
        except UserError:
            with contextlib.suppress(UserError):  # The first error is the one to report.
                write_report(self.workdir.path)
            raise
        report = write_report(self.workdir.path)
        logging.info("The encoder is in %s, the report in %s.", folder, report)

    def _check_same_step(self) -> None:
        if not several_hosts(self._strategy):
            return
        own = tf.constant(float(self.step))
        mean = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, own, axis=None)
        if float(mean) != self.step:
            raise UserError(
                f"this host resumes at step {self.step}, others at another step: --workdir must be "
                "storage that all hosts see."
            )


def _speed(metrics: dict[str, float]) -> dict[str, str]:
    """What the progress bar shows of the speed; the wait for data only if it was measured."""
    wait = {"wait": f"{metrics['data_wait']:.1%}"} if "data_wait" in metrics else {}
    return {"img/s": f"{metrics['images_per_second']:.0f}", **wait}
