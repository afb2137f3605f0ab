"""From epochs to steps, once: below the tasks every duration is in steps."""

from __future__ import annotations

import dataclasses

from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.optim.schedules import WarmupCosine, scaled_learning_rate

_WARMUP_EPOCHS = 10  # Paper, appendix B.6; of a short run at most one part in _WARMUP_SHARE.
_WARMUP_SHARE = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is and how often it does what.

    Attributes:
      steps_per_epoch: N // B; the remainder of an epoch is left out.
      total_steps, warmup_steps, checkpoint_steps, log_steps: in steps.
      peak_learning_rate: after scaling with the batch.
    """

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    checkpoint_steps: int
    log_steps: int
    peak_learning_rate: float

    def schedule(self) -> WarmupCosine:
        return WarmupCosine(self.peak_learning_rate, self.warmup_steps, self.total_steps)


def make_plan(config: Config, num_examples: int) -> Plan:
    """Makes the plan of a run on a set of `num_examples` images.

    Raises:
      UserError: the batch is larger than the set, or the warmup longer than the run.
    """
    batch = config.train_batch_size
    if batch > num_examples:
        raise UserError(
            f"--train_batch_size={batch} is larger than the data set, which has {num_examples} "
            "images; choose a smaller batch."
        )
    per_epoch = num_examples // batch
    total = config.train_steps or config.train_epochs * per_epoch
    warmup = round(config.warmup_epochs * num_examples / batch)
    if config.warmup_epochs < 0:  # Not set.
        warmup = min(round(_WARMUP_EPOCHS * num_examples / batch), total // _WARMUP_SHARE)
    if warmup > total:
        raise UserError(
            f"--warmup_epochs={config.warmup_epochs:g} is {warmup} steps, longer than the run of "
            f"{total}; lower it or train longer."
        )
    return Plan(
        steps_per_epoch=per_epoch,
        total_steps=total,
        warmup_steps=warmup,
        checkpoint_steps=config.checkpoint_steps or config.checkpoint_epochs * per_epoch,
        log_steps=config.log_steps,
        peak_learning_rate=scaled_learning_rate(
            config.learning_rate, batch, config.learning_rate_scaling
        ),
    )


def is_due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `step`."""
    return step % every == 0 or step == total
