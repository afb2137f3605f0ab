"""Converts epochs to steps in one place; everywhere else durations are in steps."""

from __future__ import annotations

import dataclasses

from tf_simclr.errors import UserError
from tf_simclr.optim.schedules import WarmupCosine, scaled_learning_rate

_WARMUP_EPOCHS = 10  # Paper, appendix B.6; at most 1 / _WARMUP_SHARE of a short run.
_WARMUP_SHARE = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run and how often it logs and saves.

    Attributes:
      steps_per_epoch: N // B; the remainder of an epoch is left out.
      total_steps, warmup_steps, checkpoint_steps, log_steps: in steps.
      eval_steps: between two evaluations during training; 0: none.
      peak_learning_rate: after scaling with the batch.
    """

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    checkpoint_steps: int
    log_steps: int
    peak_learning_rate: float
    eval_steps: int = 0

    def schedule(self) -> WarmupCosine:
        return WarmupCosine(self.peak_learning_rate, self.warmup_steps, self.total_steps)


def make_plan(
    num_examples: int,
    *,
    batch_size: int,
    epochs: int,
    steps: int,
    warmup_epochs: float,
    checkpoint_epochs: int,
    checkpoint_steps: int,
    log_steps: int,
    learning_rate: float,
    scaling: str,
    eval_epochs: float = 0.0,
) -> Plan:
    """Makes the plan of a run on a data set of `num_examples` images.

    Args:
      num_examples: N.
      batch_size: B, global, in images.
      epochs, steps: how long to train; `epochs` applies if `steps` is 0.
      warmup_epochs: of linear warmup; negative: 10, but at most a tenth of the run.
      checkpoint_epochs, checkpoint_steps: between checkpoints; the epochs apply if the steps are 0.
      log_steps: between two lines of metrics.
      eval_epochs: between two evaluations during training, rounded to whole steps; 0: none.
      learning_rate, scaling: as `scaled_learning_rate`.

    Raises:
      UserError: the batch is larger than the set, or the warmup longer than the run.
    """
    if batch_size > num_examples:
        raise UserError(
            f"--train_batch_size={batch_size} is larger than the data set, which has "
            f"{num_examples} images; choose a smaller batch."
        )
    per_epoch = num_examples // batch_size
    total = steps or epochs * per_epoch
    warmup = round(warmup_epochs * num_examples / batch_size)
    if warmup_epochs < 0:  # Not set.
        warmup = min(round(_WARMUP_EPOCHS * num_examples / batch_size), total // _WARMUP_SHARE)
    if warmup > total:
        raise UserError(
            f"--warmup_epochs={warmup_epochs:g} is {warmup} steps, longer than the run of "
            f"{total}; lower it or train longer."
        )
    return Plan(
        steps_per_epoch=per_epoch,
        total_steps=total,
        warmup_steps=warmup,
        checkpoint_steps=checkpoint_steps or checkpoint_epochs * per_epoch,
        log_steps=log_steps,
        peak_learning_rate=scaled_learning_rate(learning_rate, batch_size, scaling),
        eval_steps=max(round(eval_epochs * per_epoch), 1) if eval_epochs else 0,
    )


def check_shares(batch_size: int, replicas: int, micro_batch_size: int = 0) -> None:
    """Raises UserError where replicas, or the parts of a step, cannot share a batch evenly."""
    if batch_size % replicas:
        nearest = max(round(batch_size / replicas), 1) * replicas
        raise UserError(
            f"--train_batch_size={batch_size} is not divisible by the {replicas} replicas; "
            f"the nearest that is: {nearest}."
        )
    share, micro = batch_size // replicas, micro_batch_size
    if micro and share % micro:
        largest = max(size for size in range(1, min(micro, share) + 1) if share % size == 0)
        raise UserError(
            f"--micro_batch_size={micro} must divide the {share} images that each of the "
            f"{replicas} replica(s) has of the batch; the nearest below that does: {largest}."
        )


def is_due(step: int, every: int, total: int) -> bool:
    """Whether an action that is due every `every` steps (0: never) and after the last is due."""
    return every > 0 and (step % every == 0 or step == total)
