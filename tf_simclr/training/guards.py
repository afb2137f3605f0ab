"""Is a run still learning? Detects collapse and divergence from its last lines of metrics."""

from __future__ import annotations

import dataclasses
import math

from absl import logging

from tf_simclr.errors import UserError

LINES = 3  # Consecutive lines that must agree, so that one bad interval is tolerated.
_COLLAPSED_STD = 0.02  # 1: spread over the sphere, 0: one point.
_COLLAPSED_RANK = 1.05  # 1: all on a line.
_RANK_TO_EXPECT = 4  # With fewer rows or dimensions a low rank means nothing.
_ABOVE = 1.0  # Nats above the best line, half that above start and chance; more than noise.


class Guard:
    """Checks each line of metrics, and stops the run or warns once if it collapses or diverges."""

    def __init__(self, lines: list[dict], checkpoints, chance, on_trouble, largest_rank: int = 0):
        """
        Args:
          lines: metrics of the run so far, oldest first.
          checkpoints: `RunCheckpoints`, to name the last good one.
          chance, largest_rank: as `diagnose`.
          on_trouble: "stop" or "warn".
        """
        self._lines = [line for line in lines if math.isfinite(line.get("loss", math.nan))]
        self._checkpoints = checkpoints
        self._limits = (chance, largest_rank)
        self._on_trouble = on_trouble
        self._warned = False

    def check(self, metrics: dict) -> None:
        """Adds a line of metrics and checks the run.

        Raises:
          UserError: the run has collapsed or diverges, and `on_trouble` is "stop".
        """
        self._lines.append(metrics)
        trouble = diagnose(self._lines, *self._limits)
        if trouble is None or self._warned:
            return
        good = self._checkpoints.newest(before=trouble.since)
        message = (
            f"{trouble.what}, since step {trouble.since} or before. The last checkpoint from then: "
            f"{good}. {trouble.advice}: in a new --workdir, with --init_from=<that checkpoint> or "
            "from the start. --on_trouble=warn continues regardless."
        )
        if self._on_trouble == "stop":
            raise UserError(message)
        logging.warning("%s", message)
        self._warned = True


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What is wrong, since which step, and what to try."""

    what: str
    since: int
    advice: str


def diagnose(lines: list[dict], chance: float, largest_rank: int = 0) -> Diagnosis | None:
    """Judges a run by its metrics.

    Args:
      lines: the lines of metrics.jsonl, oldest first; losses are finite.
      chance: the loss of a model without information; -inf if it is not known.
      largest_rank: the upper bound of `effective_rank`, min(n - 1, D).

    Returns:
      The trouble that all of the last `LINES` lines show; None if there is none or it is too early.
    """
    last = lines[-LINES:]
    if len(last) < LINES:
        return None
    since = last[0]["step"]
    collapsed = (
        "A lower --learning_rate, a longer --warmup_epochs, a larger --train_batch_size or "
        "stronger augmentation (--color_jitter_strength, --crop_area_min) may help"
    )
    if all(line.get("embedding_std", 1.0) < _COLLAPSED_STD for line in last):
        what = f"embedding_std is {last[-1]['embedding_std']:.2g} (1: spread, 0: one point)"
        return Diagnosis(f"the embeddings have collapsed to a point: {what}", since, collapsed)
    ranks = [line.get("effective_rank", _RANK_TO_EXPECT) for line in last]
    if largest_rank >= _RANK_TO_EXPECT and max(ranks) < _COLLAPSED_RANK:
        what = f"effective_rank is {ranks[-1]:.3g} of at most {largest_rank}"
        return Diagnosis(f"the embeddings have collapsed to a line: {what}", since, collapsed)
    best = min(line["loss"] for line in lines)
    start = max(line["loss"] for line in lines[:LINES])
    limit = max(best + _ABOVE, start + _ABOVE / 2, chance + _ABOVE / 2)
    if all(line["loss"] > limit for line in last):
        what = f"{last[-1]['loss']:.3f}, after {best:.3f}, and has been above {limit:.3f}"
        return Diagnosis(
            f"the loss diverges: it is {what}",
            since,
            "A lower --learning_rate, a longer --warmup_epochs or --precision=float32 may help",
        )
    return None
