"""How long a run takes, from how long its parts take, and how many steps fit into a time."""

from __future__ import annotations

import dataclasses
import time

from tf_simclr.training.plan import Plan


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the parts of a run take, in seconds.

    Attributes:
      step: a step, its wait for data included.
      start: what comes before the first step and makes the first ones slower: building the model,
        tracing, compiling, filling buffers.
      log: a line of metrics.
      save: a checkpoint.
      first_evaluation, evaluation: the first evaluation during training, and each later one.
      end: what comes after the last step: export, report, the end of the process.
    """

    step: float
    start: float = 0.0
    log: float = 0.0
    save: float = 0.0
    first_evaluation: float = 0.0
    evaluation: float = 0.0
    end: float = 0.0

    def of_run(self, steps: int, plan: Plan) -> float:
        """Seconds of `steps` steps and all that belongs to them.

        Args:
          steps: at least 1.
          plan: how often the run logs, saves and evaluates; its length does not matter.
        """
        evaluations = _times(steps, plan.eval_steps)
        return (
            self.start
            + steps * self.step
            + _times(steps, plan.log_steps) * self.log
            + _times(steps, plan.checkpoint_steps) * self.save
            + (self.first_evaluation + (evaluations - 1) * self.evaluation if evaluations else 0.0)
            + self.end
        )


def steps_within(seconds: float, costs: Costs, plan: Plan) -> int:
    """The most steps for which `Costs.of_run` is at most `seconds`; 0 if not even one fits."""
    none, some = 0, 1
    while costs.of_run(some, plan) <= seconds:
        none, some = some, 2 * some
    while some - none > 1:
        middle = (none + some) // 2
        if costs.of_run(middle, plan) <= seconds:
            none = middle
        else:
            some = middle
    return none


def in_words(seconds: float) -> str:
    """A duration for people, such as "14 hours 10 minutes"; two units at most."""
    if seconds < 9.5:
        number = f"{seconds:.2g}"
        return f"{number} second{'' if number == '1' else 's'}"
    left = round(seconds)
    # Rounded to the smaller of the two units that are shown.
    for unit, smaller in ((86400, 3600), (3600, 60)):
        if left >= unit:
            left = round(left / smaller) * smaller
    parts = []
    for name, unit in _UNITS:
        count, left = divmod(left, unit)
        if count:
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
    return " ".join(parts[:2])


def clock_after(seconds: float) -> str:
    """The time of day after `seconds`, such as "15:42"; with the date if it is another day."""
    now = time.time()
    then, today = time.localtime(now + seconds), time.localtime(now)
    same_day = (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", then)


_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def _times(steps: int, every: int) -> int:
    """How often something is done that is due every `every` steps (0: never) and after the last."""
    return -(-steps // every) if every else 0
