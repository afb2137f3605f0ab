"""Which encoder and image size a proposal takes: the largest that sees enough images in the time.

A larger image goes before width, and width before depth. Pure functions.
The constants are those of short runs on CIFAR-10 where no paper is named; see docs/decisions.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

PASSES, STEPS = 20, 2000  # Over the data, and of the optimiser, that a good encoder needs.
WITHOUT_MINUTES = 480.0  # The most that is proposed where no time is given.
LARGEST_BATCH, BATCHES = 256, 4  # BATCHES: how many a set makes, at least.
_LEAST_BATCH = 8
_TRAINING = 0.85  # Share of the time that is left to steps; the rest starts, saves and exports.
_PART = 32  # Images of 128 px whose step of a ResNet-18 takes about a second.
_SMALL_STEM, _PHOTOGRAPH = 32, 64  # Sides of images, in pixels.


class Rung(NamedTuple):
    """An encoder and the side of its images in pixels."""

    encoder: str
    width: float
    size: int

    def __str__(self) -> str:
        width = "" if self.width == 1 else f" of width {self.width:g}"
        return f"{self.encoder}{width} at {self.size} px"


# In the order of their worth and of their cost: a larger image shows a photograph's details, so it
# goes before width, and width before depth.
_SMALL = (
    Rung("resnet18", 0.5, 16),
    Rung("resnet18", 0.5, 32),
    Rung("resnet18", 1.0, 32),
    Rung("resnet50", 1.0, 32),
)
_LARGE = (
    Rung("resnet18", 0.5, 64),
    Rung("resnet18", 0.5, 96),
    Rung("resnet18", 0.5, 128),
    Rung("resnet18", 1.0, 128),
    Rung("resnet18", 1.0, 160),
    Rung("resnet18", 1.0, 224),
    Rung("resnet50", 1.0, 224),
)
_SIDES = (16, 32, 64, 96, 128, 160, 224)
# 10^9 multiplications at 224 px (He et al., arXiv:1512.03385, table 1); others: given by the user,
# and then all rungs have the same encoder.
_WORK = {"resnet18": 1.8, "resnet50": 4.1}
# The stem of small images keeps their resolution, where the other divides it by 4.
_SMALL_STEM_WORK = 15


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a proposal is made for.

    Attributes:
      images: how many there are to train on, N.
      side: the median of their shorter sides, in pixels.
      pixels: the mean of height times width.
      one_size: whether all have the same size.
      channels: of each.
      decoded: whether they are in memory already.
      labels: whether those of --train_split and --eval_split can be used to evaluate.
      bad: how many files cannot be decoded.
      replicas: that share a batch.
      half: the precision that the machine computes faster than float32; "": none.
      why_half: how that is known.
      free: bytes of the host's memory that are free.
      minutes: for the whole command; 0: not given.
    """

    images: int
    side: int
    pixels: float
    one_size: bool = False
    channels: int = 3
    decoded: bool = False
    labels: bool = False
    bad: int = 0
    replicas: int = 1
    half: str = ""
    why_half: str = ""
    free: float = math.inf
    minutes: float = 0.0


def rungs(facts: Facts, given: dict[str, Any]) -> list[Rung]:
    """The encoders and sizes to choose from, the cheapest first; what is given is not varied."""
    photographs = facts.side >= _PHOTOGRAPH
    most = max((side for side in _SIDES if side <= facts.side), default=_SIDES[0])
    if facts.one_size and _SIDES[0] <= facts.side <= _SMALL_STEM:
        most = facts.side  # Such as 28: nothing is lost.
    size = given.get("image_size")
    found = [
        Rung(
            given.get("encoder", rung.encoder),
            given.get("width_multiplier", rung.width if is_ours(given) else 1.0),
            size or min(rung.size, most),
        )
        for rung in (_LARGE if photographs else _SMALL)
    ]
    return list(dict.fromkeys(found))


def batch_of(facts: Facts, given: dict[str, Any]) -> int:
    """The global batch: a power of two for each replica."""
    if "train_batch_size" in given:
        return given["train_batch_size"]
    most = min(LARGEST_BATCH, facts.images // BATCHES) / facts.replicas
    least = math.ceil(_LEAST_BATCH / facts.replicas)
    return facts.replicas * max(2 ** int(math.log2(max(most, 1))), least)


def images_wanted(facts: Facts, given: dict[str, Any]) -> float:
    """How many images, each pass counted, a run should see."""
    batch = batch_of(facts, given)
    if given.get("train_steps"):
        return given["train_steps"] * batch
    if "train_epochs" in given and not facts.minutes:
        return given["train_epochs"] * facts.images
    return max(PASSES * facts.images, STEPS * batch)


def images_seen(facts: Facts, seconds: float) -> float:
    """How many images a run sees in its time if each takes so many seconds."""
    return _TRAINING * 60 * (facts.minutes or WITHOUT_MINUTES) / seconds


def held_bytes(facts: Facts, cache_side: int = 0) -> float:
    """The memory that the decoded images take, reduced to a shorter side; 0: as they are."""
    share = min(cache_side / facts.side, 1.0) if cache_side else 1.0
    return facts.images * facts.pixels * share**2 * facts.channels


def seconds_an_image(rung: Rung, measured: dict[Rung, float]) -> float:
    """Seconds of a step, for each image of its batch: measured, or scaled from the nearest."""
    near = min(measured, key=lambda other: abs(math.log(work(rung) / work(other))))
    return measured[near] * work(rung) / work(near)


def images_timed(rung: Rung, batch: int) -> int:
    """Of how many images a step on a CPU replica is timed, so that it takes about a second.

    Of small images more are needed, as a step has a part that does not grow with them.
    """
    affordable = _PART * work(_LARGE[3]) / work(rung)
    return min(batch, 2 ** int(math.log2(max(affordable, _PART))))


def choose(
    facts: Facts,
    given: dict[str, Any],
    measured: dict[Rung, float],
    too_large: frozenset[Rung] = frozenset(),
) -> Rung | None:
    """The best rung that sees enough images in the time, else the cheapest.

    Args:
      facts, given: what there is, and {name: value} of the settings that are given.
      measured: {rung: seconds of a step for each image}; the others are estimated from these.
      too_large: those whose step does not fit into memory.

    Returns:
      None if no rung is left.
    """
    left = [rung for rung in rungs(facts, given) if rung not in too_large]
    enough = images_wanted(facts, given)
    fast = [
        rung
        for rung in left
        if measured and images_seen(facts, seconds_an_image(rung, measured)) >= enough
    ]
    if fast:
        return fast[-1]
    return left[0] if left else None


def is_ours(given: dict[str, Any]) -> bool:
    """Whether the encoder is a ResNet of this package, which has a width."""
    return given.get("encoder", "resnet").startswith("resnet")


def work(rung: Rung) -> float:
    stem = _SMALL_STEM_WORK if rung.size <= _SMALL_STEM else 1
    return stem * _WORK.get(rung.encoder, 1.0) * rung.width**2 * rung.size**2
