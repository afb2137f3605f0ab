"""What to train on a data set, a machine and a time: the rules of a proposal, as pure functions.

The rules in one sentence: images first, then width and depth, as far as the time allows enough
passes over the data. The constants are those of short runs on CIFAR-10 where no paper is named;
see docs/decisions.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from tf_simclr.optim.schedules import scaled_learning_rate
from tf_simclr.training.forecast import in_words

YOURS = "Yours."  # The reason for what is given.
PASSES, STEPS = 20, 2000  # Over the data, and of the optimiser, that a good encoder needs.
_GOOD_PASSES = 100  # Where no time is given. SimCLR, arXiv:2002.05709, figure 9.
_WITHOUT_MINUTES = 480.0  # The most that is proposed where no time is given.
_TRAINING = 0.85  # Share of the time that is left to steps; the rest starts, saves and exports.
_BATCH, _LEAST_BATCH, _BATCHES = 256, 8, 4  # Largest, smallest; batches of a set, at least.
_PART = 32  # Images of 128 px whose step of a ResNet-18 takes about a second.
LEAST_MICRO = 16  # Images over which batch normalisation sees a mean.
_FEW = 2000  # Images, below which an encoder from scratch stays weak.
_SMALL_STEM, _PHOTOGRAPH, _BLURRED = 32, 64, 96  # Sides of images, in pixels.
_SAVES, _EVALUATIONS = 20, 10
_GIB = 2**30
_CACHED = 1 * _GIB  # What --cache=auto holds.
_SEEN_OF_CACHED = 512 / 224  # Side held / side of the views; BUILD.md, "Data sets".


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
# By optimiser: base rate and its scaling with the batch. LARS: peak 1.6 at 256; the rule is that of
# SimCLR, appendix B.1, for small batches.
_RATES = {
    "lars": (0.1, "sqrt"),
    "momentum": (0.05, "linear"),
    "adamw": (1e-3, "none"),
    "lamb": (1e-3, "none"),
}
_TEMPERATURES = {"decoupled": 0.1, "supervised": 0.1, "nt_xent": 0.2}


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


class Choice(NamedTuple):
    """A line of a proposal: a setting, its value, and the reason."""

    name: str
    value: Any
    reason: str


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
            given.get("width_multiplier", rung.width if _is_ours(given) else 1.0),
            size or min(rung.size, most),
        )
        for rung in (_LARGE if photographs else _SMALL)
    ]
    return list(dict.fromkeys(found))


def batch_of(facts: Facts, given: dict[str, Any]) -> int:
    """The global batch: a power of two for each replica."""
    if "train_batch_size" in given:
        return given["train_batch_size"]
    most = min(_BATCH, facts.images // _BATCHES) / facts.replicas
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
    return _TRAINING * 60 * (facts.minutes or _WITHOUT_MINUTES) / seconds


def held_bytes(facts: Facts, cache_side: int = 0) -> float:
    """The memory that the decoded images take, reduced to a shorter side; 0: as they are."""
    share = min(cache_side / facts.side, 1.0) if cache_side else 1.0
    return facts.images * facts.pixels * share**2 * facts.channels


def seconds_an_image(rung: Rung, measured: dict[Rung, float]) -> float:
    """Seconds of a step, for each image of its batch: measured, or scaled from the nearest."""
    near = min(measured, key=lambda other: abs(math.log(_work(rung) / _work(other))))
    return measured[near] * _work(rung) / _work(near)


def images_timed(rung: Rung, batch: int) -> int:
    """Of how many images a step on a CPU replica is timed, so that it takes about a second.

    Of small images more are needed, as a step has a part that does not grow with them.
    """
    affordable = _PART * _work(_LARGE[3]) / _work(rung)
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


def propose(
    facts: Facts, given: dict[str, Any], rung: Rung, measured: dict[Rung, float], micro: int = 0
) -> list[Choice]:
    """The settings of a run, with reasons.

    Args:
      facts, given, measured: as `choose`.
      rung: what `choose` returned.
      micro: images of a micro-batch, where a step in one part does not fit into memory; else 0.

    Returns:
      The given settings come first. No setting appears twice.
    """
    batch = batch_of(facts, given)
    seconds = seconds_an_image(rung, measured)
    proposed = [
        *_model(facts, given, rung, measured),
        *_views(facts, rung.size),
        *_loss_and_batch(facts, given, batch, micro),
        *_rate(given, batch),
        *_machine(facts, given, rung.size),
        *_length(facts, given, batch, seconds),
    ]
    yours = [Choice(name, value, YOURS) for name, value in given.items()]
    return yours + [choice for choice in proposed if choice.name not in given]


def hints(facts: Facts, given: dict[str, Any]) -> list[str]:
    """What no setting can mend, in sentences."""
    said = []
    if facts.images < _FEW and "init_from" not in given:
        said.append(
            f"{facts.images} images are few: an encoder that learns from them alone stays weak. "
            "More images of the same kind help most. Or use ImageNet weights, which are "
            "downloaded: --init_from=imagenet --encoder=ConvNeXtTiny, to train on or, with "
            "--mode=export, as they are."
        )
    if "flip_probability" not in given:
        said.append(
            "Views are mirrored. If a mirrored image is another thing, as a letter is, add "
            "--flip_probability=0."
        )
    return said


def _is_ours(given: dict[str, Any]) -> bool:
    """Whether the encoder is a ResNet of this package, which has a width."""
    return given.get("encoder", "resnet").startswith("resnet")


def _work(rung: Rung) -> float:
    stem = _SMALL_STEM_WORK if rung.size <= _SMALL_STEM else 1
    return stem * _WORK.get(rung.encoder, 1.0) * rung.width**2 * rung.size**2


def _passes(facts: Facts, seconds: float) -> float:
    return images_seen(facts, seconds) / facts.images


def _model(facts, given, rung, measured) -> Iterator[Choice]:
    seconds = seconds_an_image(rung, measured)
    how = "measured" if rung in measured else "estimated"
    time = in_words(60 * (facts.minutes or _WITHOUT_MINUTES))
    reason = (
        f"{rung} takes {1000 * seconds:.3g} ms an image here ({how}): about "
        f"{_passes(facts, seconds):.3g} passes over the {facts.images} images in {time}."
    )
    ladder = rungs(facts, given)
    if images_seen(facts, seconds) < images_wanted(facts, given):
        wanted = images_wanted(facts, given) / facts.images
        reason += f" {wanted:.3g} would be enough: give it more time. Nothing cheaper is proposed."
    elif rung != ladder[-1]:
        above = ladder[ladder.index(rung) + 1]
        slower = seconds_an_image(above, measured)
        reason += f" The next, {above}, would make {_passes(facts, slower):.3g}."
    else:
        reason += " It is the largest that is proposed for such images."
    yield Choice("encoder", rung.encoder, reason)
    if _is_ours(given):
        yield Choice("width_multiplier", rung.width, "Of that encoder; a step costs its square.")
    shown = f"all are {facts.side} px" if facts.one_size else f"half have less than {facts.side}"
    reason = f"Not above the images' shorter side ({shown}); larger goes before wider."
    if rung.size > facts.side:
        reason = f"The images are enlarged from {facts.side} px, as the encoder divides the size."
    yield Choice("image_size", rung.size, reason)


def _views(facts, size) -> Iterator[Choice]:
    small = size < _BLURRED
    if small:
        why = f"Half of the paper's strength below {_BLURRED} px, as the paper has it for CIFAR-10."
        yield Choice("color_jitter_strength", 0.5, why)
        yield Choice("use_blur", False, f"Below {_BLURRED} px there is little detail to blur.")
    else:
        why = "The paper's for photographs (appendix A)."
        yield Choice("color_jitter_strength", 1.0, why)
        yield Choice("use_blur", True, why)
    if facts.channels == 3:
        why = "Half as often as in the paper: short runs on small images kept more colour."
        yield Choice("grayscale_probability", *((0.1, why) if small else (0.2, "The paper's.")))


def _loss_and_batch(facts, given, batch, micro) -> Iterator[Choice]:
    loss = given.get("loss", "decoupled")
    why = "It needs no large batch (arXiv:2110.06848); better than nt_xent in short runs of 256."
    yield Choice("loss", loss, why)
    if loss in _TEMPERATURES:
        yield Choice("temperature", _TEMPERATURES[loss], f"Best of short runs with {loss}.")
    yield Choice("num_proj_layers", 2, "The paper's.")
    why = "More is hardly better with this loss, and gives fewer steps in the same time."
    if batch < _BATCH:
        why = f"At least {_BATCHES} batches of {facts.images} images, so that they meet others."
    if facts.replicas > 1:
        why += f" {batch // facts.replicas} on each of {facts.replicas} replicas."
    yield Choice("train_batch_size", batch, why)
    if micro:
        why = "A step in one part does not fit into memory; batch normalisation sees this many."
        yield Choice("micro_batch_size", micro, why)


def _rate(given, batch) -> Iterator[Choice]:
    optimizer = given.get("optimizer", "lars")
    yield Choice("optimizer", optimizer, "The paper's, for which the rate below is meant.")
    base, scaling = _RATES[optimizer]
    peak = scaled_learning_rate(base, batch, scaling)
    why = f"A peak of {peak:.3g} for {optimizer} and batch {batch}."
    if "learning_rate" in given:
        return  # The scaling that it is meant for is that of the flag, given or not.
    scaling = given.get("learning_rate_scaling", scaling)
    yield Choice(
        "learning_rate", float(f"{peak / scaled_learning_rate(1.0, batch, scaling):.4g}"), why
    )
    yield Choice("learning_rate_scaling", scaling, "How that peak follows from the base rate.")


def _machine(facts, given, size) -> Iterator[Choice]:
    if facts.half:
        yield Choice("precision", facts.half, f"{facts.why_half}; variables stay float32.")
    if facts.bad:
        why = f"{facts.bad} file(s) cannot be decoded, and would stop the run."
        yield Choice("skip_bad_images", True, why)
    if given.get("cache") != "off" and not given.get("data_service"):
        yield from _cache(facts, size)


def _cache(facts, size) -> Iterator[Choice]:
    """How to hold images that would otherwise be decoded in every pass."""
    if facts.decoded or held_bytes(facts) <= _CACHED:
        return  # They are held as they are.
    side = 32 * math.ceil(_SEEN_OF_CACHED * size / 32)
    reduces = side < 0.8 * facts.side
    held = held_bytes(facts, side if reduces else 0)
    if held > facts.free / 2:
        return  # Too many: each is decoded when its turn comes.
    if reduces:
        why = f"Photographs of {facts.side} px are reduced once and held: {held / _GIB:.2g} GiB."
        yield Choice("cache_side", side, why)
    if not reduces or 1.2 * held > _CACHED:
        why = f"The images, {held / _GIB:.2g} GiB, fit into memory: they are decoded once."
        yield Choice("cache", "on", why)


def _length(facts, given, batch, seconds) -> Iterator[Choice]:
    seen = images_seen(facts, seconds)
    if given.get("train_steps"):
        seen = given["train_steps"] * batch
    elif not facts.minutes and "train_epochs" in given:
        seen = given["train_epochs"] * facts.images
    elif not facts.minutes:
        enough = max(_GOOD_PASSES, math.ceil(STEPS * batch / facts.images))
        epochs = max(min(enough, int(seen / facts.images)), 1)
        seen = epochs * facts.images
        why = f"About {in_words(seen * seconds)}. --train_minutes=M instead fits a run into a time."
        yield Choice("train_epochs", epochs, why)
    steps, epochs = max(int(seen / batch), 1), seen / facts.images
    if not given.keys() & {"checkpoint_steps", "checkpoint_epochs"}:
        every = max(round(steps / _SAVES), 20)
        why = f"About {_SAVES} checkpoints in about {steps} steps."
        yield Choice("checkpoint_steps", every, why)
    if facts.labels:
        every = max(round(epochs / _EVALUATIONS, 0 if epochs >= _EVALUATIONS else 2), 0.01)
        why = f"The labels show how good the encoder is, about {_EVALUATIONS} times."
        yield Choice("eval_every_epochs", every, why)
