"""--mode=doctor: reports what a pretraining run would do and need, without training."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from tf_simclr import native
from tf_simclr.config import Config
from tf_simclr.data.bad_images import find_bad_images, listed
from tf_simclr.data.copies import count_copies
from tf_simclr.data.decoding import MAX_PIXELS, decode
from tf_simclr.data.headers import image_facts
from tf_simclr.data.image_source import Source
from tf_simclr.errors import printable
from tf_simclr.losses import ContrastiveLoss
from tf_simclr.tasks import build, calibration, inputs, proposal
from tf_simclr.tasks.duration import Duration
from tf_simclr.tasks.need import SHARE, Need
from tf_simclr.training.memory import available_bytes
from tf_simclr.training.stopping import age

_SIZES_READ = 1000
_GIB = 2**30


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Prints what --mode=pretrain with the same flags would find; writes nothing but --propose.

    With --propose the rest of the report is about the proposed run.

    Raises:
      UserError: the settings or the data are invalid.
    """
    if config.propose:
        proposal.check_place(config)
    elapsed = age()
    listing = time.monotonic()
    source = inputs.training_source(config, keep_bad_images=True)
    elapsed += time.monotonic() - listing
    _say("images", f"{source.num_examples} in {source.name} ({config.train_split})")
    _say("classes", _classes(source))
    facts = _facts(source)
    _say("sizes", _sizes(source, facts))
    _say("decoding", _decoding(facts))
    bad = [] if source.bad_images else find_bad_images(source)
    _say("bad files", _bad(source, bad))
    if config.exclude_list:
        _say("left out", _excluded(source, config))
    _say("copies", _copies(source))
    if source.passed_over:
        _say("skipped", source.passed_over)
    if config.propose:
        config, source, lines = proposal.make(config, strategy, source, facts[0], len(bad))
        for line in lines:
            _say("proposal", line)
    replicas = strategy.num_replicas_in_sync
    if config.chooses_steps:
        plan = calibration.open_plan(config, source, replicas)
    else:
        plan = build.plan_of(config, source.num_examples, replicas)
    inputs.require_labels_to_train(config, source)
    splits = inputs.online_splits(config, source.channels)  # Raises what training would raise.
    share = config.train_batch_size // replicas
    _say("batch", f"{config.train_batch_size} on {replicas} replica(s), {share} each")
    unknown = config.chooses_steps  # The last line says how many there are.
    total = "as many as there is time for" if unknown else plan.total_steps
    _say("steps", f"{total}, {plan.steps_per_epoch} per epoch")
    most = "at most a tenth of them, and " if unknown and config.warmup_epochs < 0 else ""
    peak = f"to a peak learning rate of {plan.peak_learning_rate:g}"
    _say("warmup", f"{most}{plan.warmup_steps} steps, {peak}")
    need = Need.of(config, source, plan)
    _say("loss", _loss(build.loss_of(config), config.train_batch_size, need.embedding_dim))
    _say("parameters", f"{need.parameters / 1e6:.1f} million")
    source = source.take(np.setdiff1d(np.arange(source.num_examples), source.store.unreadable))
    holding = time.monotonic()
    held = inputs.for_training(config, source)  # Takes memory, which is then no longer free.
    elapsed += time.monotonic() - holding
    _say("held", _held(held, config))
    _say("views", f"made by {native.state()}")
    free = available_bytes()
    _say("memory", _memory(need, config, share, free))
    if free is None or need.bytes(share, config.micro_batch_size or share) <= SHARE * free:
        measured = Duration(config, strategy, source, held, splits, plan, elapsed)
        _say("time", measured.in_words())
    else:
        _say("time", "not measured, as a step does not fit into memory")


# How a run's loss compares with the loss's levels.
_LEVELS = {
    "untrained_level": "about {:.3f} at the start (random embeddings)",
    "chance_level": "below chance, {:.3f} (identical embeddings), once it has learned",
}


def _loss(loss: ContrastiveLoss, batch_size: int, embedding_dim: int) -> str:
    levels = loss.levels(batch_size, embedding_dim)
    known = [text.format(levels[name]) for name, text in _LEVELS.items() if name in levels]
    return "; ".join([loss.name, *known])


def _held(source: Source, config: Config) -> str:
    if not source.store.nbytes:
        return "nothing: every image is decoded in every epoch"
    text = f"{source.store.nbytes / _GIB:.2f} GiB of decoded images"
    if config.cache_side:
        text += f", on the shorter side at most {config.cache_side} pixels"
    return text


def _memory(need: Need, config: Config, share: int, free: int | None) -> str:
    micro = config.micro_batch_size or share
    text = f"about {need.bytes(share, micro) / _GIB:.1f} GiB a replica"
    if config.micro_batch_size:
        text += f" with --micro_batch_size={micro}"
    if free is None:
        return text + "; what this device has is not known"
    text += f"; {free / _GIB:.1f} GiB are free"
    if need.bytes(share, micro) <= SHARE * free:
        return text + ": fits"
    fitting = need.micro_batches(share, free)
    if fitting:
        return text + f": does not fit; --micro_batch_size={fitting[-1]} does"
    return text + ": does not fit, nor would one image at a time; choose a smaller --encoder"


def _classes(source):
    if source.class_names is None or source.labels is None:
        return f"none: {source.unlabelled}"
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    return f"{len(counts)}, of {counts.min()} to {counts.max()} images"


def _facts(source):
    """Sizes, int64 [n, 2], and `_DECODING` facts, bool [n, 4], of up to `_SIZES_READ` images."""
    if source.store.nbytes:
        return np.zeros([0, 2], np.int64), np.zeros([0, len(_DECODING)], bool)
    chosen = np.unique(np.linspace(0, source.num_examples - 1, _SIZES_READ).astype(np.int64))
    chosen = np.setdiff1d(chosen, source.store.unreadable)  # Includes files too large to read.

    def read(index):
        contents = source.encoded(index)
        facts = image_facts(contents)
        # 12-bit values in a 16-bit file are below 4096, which becomes 16 when 8 bits are kept.
        dark = tf.cond(
            facts.deep, lambda: tf.reduce_all(decode(contents, 1) < 16), lambda: tf.constant(False)
        )
        return facts.size, tf.stack([facts.turned, facts.transparent, facts.deep, dark])

    facts = tf.data.Dataset.from_tensor_slices(chosen).map(read, tf.data.AUTOTUNE)
    read = list(facts.ignore_errors().as_numpy_iterator())
    sides = np.array([size for size, _ in read]).reshape(-1, 2)
    flags = np.array([flags for _, flags in read]).reshape(-1, len(_DECODING))
    valid = (sides > 0).all(axis=1) & (sides.prod(axis=1) <= MAX_PIXELS)
    return sides[valid], flags[valid]


# The facts that are counted over the images whose headers are read.
_DECODING = (
    "rotated or mirrored by EXIF",
    "with transparency, blended over white",
    "of 16 bits, of which the upper 8 are kept",
    "of these nearly black, with values below 4096 only: rescale them to 16 bits",
)


def _decoding(facts):
    _, flags = facts
    counts = flags.sum(axis=0)
    shown = [f"{count} {what}" for count, what in zip(counts, _DECODING) if count]
    return f"{'; '.join(shown)} (of {len(flags)} images)" if shown else "nothing to change"


def _sizes(source, facts):
    if source.image_shape:
        height, width = source.image_shape
        return f"all {height} x {width}, {source.channels} channel(s)"
    sides, _ = facts
    if not len(sides):
        return "no header could be read"
    short = np.sort(sides.min(axis=1))
    shown = f"shorter side {short[0]} to {short[-1]}, median {short[len(short) // 2]}"
    return f"{shown} (of {len(sides)} images)"


def _bad(source, bad):
    if source.bad_images:
        return f"{len(source.bad_images)} left out: {listed(source.bad_images)}"
    if not bad:
        return "none"
    return f"{len(bad)}, which stop a run; --skip_bad_images leaves them out: {listed(bad)}"


def _excluded(source, config):
    return f"{source.left_out} images, which --exclude_list={config.exclude_list} names"


def _copies(source):
    copies = count_copies(source)
    if copies is None:
        return "not looked for: the sizes of the images' files are not known"
    if not copies.found:
        return "no exact copies found"
    return f"{copies.in_words()}; --mode=duplicates lists them"


def _say(what, text):
    print(f"{what:<12}{printable(text)}", flush=True)
