"""How long a pretraining run takes, from measured steps: the doctor's last line."""

from __future__ import annotations

import dataclasses
import tempfile
import time

import tensorflow as tf

from tf_simclr.config import Config
from tf_simclr.data.image_source import Source
from tf_simclr.distribute import on_cpu
from tf_simclr.errors import UserError
from tf_simclr.tasks import calibration
from tf_simclr.training import Plan
from tf_simclr.training.forecast import in_words

_MEASURING = 6.0  # Seconds of steps.
_PART = 64  # Images on a replica, of which a step on CPUs takes seconds.
_SLOW_STEP = 12.0  # Seconds of a step, above which it is estimated from steps of a part.


@dataclasses.dataclass(frozen=True)
class Duration:
    """What a run takes, from measured steps; `elapsed` is its age in seconds before the first."""

    config: Config
    strategy: tf.distribute.Strategy
    source: Source
    held: Source
    splits: tuple | None
    plan: Plan
    elapsed: float

    def in_words(self) -> str:
        """The line of the report."""
        try:
            if self.config.chooses_steps:
                return self._chosen()
            return self._given()
        except UserError as error:  # A file that is damaged; the line above has reported it.
            return f"not measured: {error}"

    def _given(self) -> str:
        seconds, images = self._step()
        part = "" if images == self.config.train_batch_size else f", from steps of {images} images"
        return (
            f"{in_words(seconds)} a step{part}, {in_words(seconds * self.plan.steps_per_epoch)} an "
            f"epoch, {in_words(seconds * self.plan.total_steps)} for all {self.plan.total_steps} "
            "steps"
        )

    def _chosen(self) -> str:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            costs = calibration.costs_of(
                *(self.config, self.strategy, self.source, self.splits),
                held=self.held,
                folder=folder,
                seconds=_MEASURING,
            )
        elapsed = self.elapsed + time.monotonic() - began
        steps = calibration.steps_for(self.config, costs, self.plan, elapsed)
        if steps < calibration.FEWEST:
            return str(calibration.too_short(self.config, costs, self.plan, elapsed))
        return (
            f"{in_words(costs.step)} a step, {in_words(costs.step * self.plan.steps_per_epoch)} an "
            f"epoch; --train_minutes={self.config.train_minutes:g} trains about {steps} steps, "
            f"which are {steps / self.plan.steps_per_epoch:.1f} epochs"
        )

    def _step(self) -> tuple[float, int]:
        """(seconds of a step of the whole batch, images of the steps that were measured)."""
        for images in self._batches():
            config = dataclasses.replace(self.config, train_batch_size=images)
            seconds = calibration.seconds_of_step(
                *(config, self.strategy, self.source, self.held, _MEASURING)
            )
            seconds *= self.config.train_batch_size / images
            if seconds > _SLOW_STEP:
                break
        return seconds, images

    def _batches(self) -> list[int]:
        """The batches to measure: where steps may take minutes, a part of the batch goes first."""
        whole, replicas = self.config.train_batch_size, self.strategy.num_replicas_in_sync
        # A step in micro-batches does more work than one in a single part.
        part = replicas * (2 * self.config.micro_batch_size or _PART)
        return [part, whole] if on_cpu() and 4 * part < whole else [whole]
