"""What to train on a data set, a machine and a time: the lines of a proposal, with their reasons.

Pure functions. The constants are those of short runs on CIFAR-10 where no paper is named; see
docs/decisions.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from tf_simclr.optim.schedules import scaled_learning_rate
from tf_simclr.training.forecast import in_words
from tf_simclr.training.ladder import (
    BATCHES,
    LARGEST_BATCH,
    STEPS,
    WITHOUT_MINUTES,
    Facts,
    Rung,
    batch_of,
    held_bytes,
    images_seen,
    images_wanted,
    is_ours,
    rungs,
    seconds_an_image,
)

YOURS = "Yours."  # The reason for what is given.
_GOOD_PASSES = 100  # Where no time is given. SimCLR, arXiv:2002.05709, figure 9.
LEAST_MICRO = 16  # Images over which batch normalisation sees a mean.
_FEW = 2000  # Images, below which an encoder from scratch stays weak.
_BLURRED = 96  # Side of images in pixels, from which blur has something to blur.
_SAVES, _EVALUATIONS = 20, 10
_GIB = 2**30
_CACHED = 1 * _GIB  # What --cache=auto holds.
_SEEN_OF_CACHED = 512 / 224  # Side held / side of the views; BUILD.md, "Data sets".


# By optimiser: base rate and its scaling with the batch. LARS: peak 1.6 at 256; the rule is that of
# SimCLR, appendix B.1, for small batches.
_RATES = {
    "lars": (0.1, "sqrt"),
    "momentum": (0.05, "linear"),
    "adamw": (1e-3, "none"),
    "lamb": (1e-3, "none"),
}
_TEMPERATURES = {"decoupled": 0.1, "supervised": 0.1, "nt_xent": 0.2}


class Choice(NamedTuple):
    """A line of a proposal: a setting, its value, and the reason."""

    name: str
    value: Any
    reason: str


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


def _passes(facts: Facts, seconds: float) -> float:
    return images_seen(facts, seconds) / facts.images


def _model(facts, given, rung, measured) -> Iterator[Choice]:
    seconds = seconds_an_image(rung, measured)
    how = "measured" if rung in measured else "estimated"
    time = in_words(60 * (facts.minutes or WITHOUT_MINUTES))
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
    if is_ours(given):
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
    if batch < LARGEST_BATCH:
        why = f"At least {BATCHES} batches of {facts.images} images, so that they meet others."
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
