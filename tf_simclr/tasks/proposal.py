"""The doctor's --propose: measures some encoders, and writes what it proposes as a flagfile."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr import storage
from tf_simclr.config import FIELDS, Config
from tf_simclr.data.bad_images import without_bad
from tf_simclr.data.image_source import Source
from tf_simclr.data.sources import in_memory, memory_limit
from tf_simclr.distribute import on_cpu
from tf_simclr.errors import UserError, printable
from tf_simclr.flagfile import recorded
from tf_simclr.tasks import calibration, inputs, views
from tf_simclr.tasks.need import Need
from tf_simclr.training import ladder, proposing
from tf_simclr.training.ladder import Facts, Rung
from tf_simclr.training.memory import available_bytes, host_bytes
from tf_simclr.training.proposing import Choice

_MEASURING = 4.0  # Seconds of steps of each encoder that is tried.
_SAMPLE = 512  # Images that the measured steps read.
_NOT_PROPOSED = ("mode", "workdir", "propose")
# Instructions that multiply bfloat16, as Linux names them.
_CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")


def check_place(config: Config) -> None:
    """Checks that the proposal can be written, before anything is measured.

    Raises:
      UserError: a file is there already or its folder cannot be written to; or settings are given
        that no proposal can be made around.
    """
    for path in (config.propose, picture_of(config.propose)):
        if tf.io.gfile.exists(path):
            raise UserError(
                f"--propose={config.propose}: {path} exists already and is not overwritten; name "
                "another file, or remove it."
            )
    if config.workdir:
        raise UserError(
            "--propose is for a run that is to begin, and takes no --workdir; received "
            f"{config.workdir!r}. Leave it out."
        )
    if config.init_from and "encoder" not in _given(config):
        raise UserError(
            f"--propose with --init_from={config.init_from} needs --encoder, the encoder of those "
            "weights."
        )
    trial = config.propose + ".tmp"
    with storage.naming(config.propose):
        with tf.io.gfile.GFile(trial, "w") as file:
            file.write("")
        tf.io.gfile.remove(trial)


def picture_of(path: str) -> str:
    """Where the picture of the views of the proposal at `path` is."""
    return path.removesuffix(".flags") + ".png"


def make(
    config: Config, strategy, source: Source, sides: np.ndarray, bad: int
) -> tuple[Config, Source, list[str]]:
    """Makes a proposal and writes it to --propose, with a picture of the views beside it.

    Args:
      config: the flags that are given, which the proposal keeps.
      strategy: on which the steps are measured.
      source: the images to train on.
      sides: int64 [n, 2], heights and widths of some of them; [0, 2] if all have one size.
      bad: how many of them cannot be decoded.

    Returns:
      (the config of the proposal, the source without bad images, lines to print).

    Raises:
      UserError: there are too few images, or no step fits into memory.
    """
    given = _given(config)
    if bad:
        source = without_bad(source)
    facts = _facts(config, strategy, source, sides, bad)
    batch = ladder.batch_of(facts, given)
    if facts.images < 2 * batch:
        raise UserError(
            f"{source.name} has {facts.images} images that can be used; a batch of {batch} needs "
            f"at least {2 * batch}. Add images, or pass a smaller --train_batch_size."
        )
    rung, measured, micro = _search(config, strategy, source, facts, given)
    choices = proposing.propose(facts, given, rung, measured, micro)
    proposed = _with(config, choices)
    shown = dataclasses.replace(proposed, train_batch_size=min(batch, views.SHOWN))
    with storage.naming(picture_of(config.propose)):
        some = inputs.two_view_batches(shown, _sample(source, proposed.seed), None)
        views.write_views(picture_of(config.propose), some, shown)
    values = recorded(proposed)
    lines = [(f"--{name}={values[name]}", reason) for name, _, reason in choices]
    hints = proposing.hints(facts, given)
    storage.write_whole(config.propose, _text(config, source, lines, hints))
    return (
        proposed,
        source,
        [
            *(f"{line}: {reason}" if reason != proposing.YOURS else line for line, reason in lines),
            *hints,
            f"written to {config.propose}; its views are in {picture_of(config.propose)}",
        ],
    )


def _text(config: Config, source: Source, lines: list[tuple[str, str]], hints: list[str]) -> str:
    minutes = f", for {config.train_minutes:g} minutes" if config.train_minutes else ""
    head = [
        f"A proposal of --mode=doctor for {source.num_examples} images in {source.name}{minutes}.",
        *hints,
    ]
    text = "".join(map(_comment, head)) + (
        "#\n#   python -m tf_simclr --mode=pretrain --workdir=runs/mine \\\n"
        f"#     --flagfile={printable(config.propose)}\n"
    )
    for line, reason in lines:
        text += f"\n{_comment(reason)}{line}\n"
    return text


def _comment(sentence: str) -> str:
    lines = textwrap.wrap(printable(sentence), 98, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _given(config: Config) -> dict[str, Any]:
    """{name: value} of the settings that a proposal keeps, in the order of Config."""
    return {
        name: getattr(config, name)
        for name, field in FIELDS.items()
        if name not in _NOT_PROPOSED
        and (name in config.given or getattr(config, name) != field.default)
    }


def _with(config: Config, choices: list[Choice]) -> Config:
    return dataclasses.replace(config, propose="", **{name: value for name, value, _ in choices})


def _facts(config: Config, strategy, source: Source, sides: np.ndarray, bad: int) -> Facts:
    sides = np.array([source.image_shape]) if source.image_shape else sides
    if not len(sides):
        raise UserError(f"{source.name}: no image has a header that can be read; nothing to train.")
    half, why = _fast_precision()
    return Facts(
        images=source.num_examples,
        side=int(np.median(sides.min(axis=1))),
        pixels=float(sides.prod(axis=1).mean()),
        one_size=bool((sides == sides[0]).all()),
        channels=source.channels,
        decoded=bool(source.store.nbytes),
        labels=_has_labels(config, source),
        bad=bad,
        replicas=strategy.num_replicas_in_sync,
        half=half,
        why_half=why,
        free=host_bytes(),
        minutes=config.train_minutes,
    )


def _has_labels(config: Config, source: Source) -> bool:
    """Whether the run could evaluate by nearest neighbours."""
    if source.labels is None and not config.eval_dataset:
        return False
    try:
        inputs.online_splits(dataclasses.replace(config, eval_every_epochs=1.0), source.channels)
    except UserError:
        return False
    return True


def _fast_precision() -> tuple[str, str]:
    """(the precision that the device computes faster than float32 or "", how that is known)."""
    if tf.config.list_logical_devices("TPU"):
        return "mixed_bfloat16", "TPUs multiply bfloat16"
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        generation = details.get("compute_capability", (0, 0))
        if generation >= (8, 0):
            return "mixed_bfloat16", "This GPU multiplies bfloat16 several times faster"
        if generation >= (7, 0):
            return "mixed_float16", "This GPU multiplies float16 several times faster"
        return "", ""
    for name in _CPU_BFLOAT16:
        if name in _cpu_instructions():
            return "mixed_bfloat16", f"This CPU multiplies bfloat16 ({name}), so steps are faster"
    return "", ""


def _cpu_instructions() -> set[str]:
    """The names of the CPU's instruction sets on Linux; elsewhere none."""
    try:
        with open("/proc/cpuinfo") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


def _search(
    config: Config, strategy, source: Source, facts: Facts, given: dict[str, Any]
) -> tuple[Rung, dict[Rung, float], int]:
    """(rung, seconds an image of those measured, micro-batch or 0)."""
    measured: dict[Rung, float] = {}
    micros: dict[Rung, int] = {}
    too_large: frozenset[Rung] = frozenset()
    # An accelerator may wait for images whatever the encoder is, so the largest is tried first.
    rung = ladder.rungs(facts, given)[0 if on_cpu() else -1]
    while rung is not None and rung not in measured:
        tried = _with(config, proposing.propose(facts, given, rung, {rung: 1.0}))
        micro = _micro_batch(tried, strategy, source, given)
        if micro is None:
            logging.info("%s: a step does not fit into memory.", rung)
            too_large |= {rung}
        else:
            tried = dataclasses.replace(tried, micro_batch_size=micro)
            micros[rung] = micro
            measured[rung] = _seconds_an_image(tried, strategy, source, facts)
            logging.info("%s: %.3g ms an image.", rung, 1000 * measured[rung])
        rung = ladder.choose(facts, given, measured, too_large)
    if rung is None:
        raise UserError(
            f"no step of the encoders that could be proposed fits into memory, of which "
            f"{(available_bytes() or 0) / 2**30:.1f} GiB are free: free some, or pass a smaller "
            "--encoder, --image_size or --train_batch_size."
        )
    return rung, measured, micros[rung]


def _micro_batch(config: Config, strategy, source: Source, given: dict[str, Any]) -> int | None:
    """The --micro_batch_size with which a step fits; 0: none is needed; None: none fits."""
    free = available_bytes()
    if free is None or "micro_batch_size" in given:
        return config.micro_batch_size
    replicas = strategy.num_replicas_in_sync
    share = config.train_batch_size // replicas
    need = Need.of(config, source, calibration.open_plan(config, source, replicas))
    fitting = [
        m for m in need.micro_batches(share, free) if m >= proposing.LEAST_MICRO or m == share
    ]
    return None if not fitting else fitting[-1] if fitting[-1] < share else 0


def _seconds_an_image(config: Config, strategy, source: Source, facts: Facts) -> float:
    """Seconds of a step on some of the images, held as in a run, for each image of its batch."""
    batch = config.train_batch_size
    if on_cpu():  # Where steps may take minutes.
        replicas = strategy.num_replicas_in_sync
        batch = replicas * ladder.images_timed(
            Rung(config.encoder, config.width_multiplier, config.image_size),
            config.micro_batch_size or batch // replicas,
        )
    held = _sample(source, config.seed, least=batch)
    if ladder.held_bytes(facts, config.cache_side) <= memory_limit(config.cache):
        held = in_memory(held, shorter_side=config.cache_side)
    micro = config.micro_batch_size if config.micro_batch_size < batch else 0
    config = dataclasses.replace(config, train_batch_size=batch, micro_batch_size=micro)
    return calibration.seconds_of_step(config, strategy, source, held, _MEASURING) / batch


def _sample(source: Source, seed: int, least: int = 0) -> Source:
    return inputs.some_of(source, max(_SAMPLE, least), seed)
