"""Writes a table: an encoder's vector of every image, part by part, on all replicas of this host.

A part is a fixed range of images and is computed whole, in the same batches. So a table that was
interrupted, or computed by several machines, has the same bytes as one that was not.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr import storage
from tf_simclr.data.bad_images import (
    READ_ERRORS,
    bad_images_error,
    listed,
    naming_bad_images,
)
from tf_simclr.data.in_order import parts_dataset
from tf_simclr.embeddings import table
from tf_simclr.embeddings.rows import Rows, text_of
from tf_simclr.embeddings.table import Unusable
from tf_simclr.errors import UserError, printable
from tf_simclr.features import Computer, encoder_fingerprint, even_size
from tf_simclr.models.encoder_interface import encoder_shapes
from tf_simclr.stack import keras

gfile = tf.io.gfile

ROWS = 8192  # Images per part: 64 MiB at D = 2048. Two parts at most are in memory.
_LOOKED_INTO = 3  # Parts: the images of the next ones are read ahead.
_THREADS = 16  # Asking for the times of files waits for the disk, or for a network's answer.


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write_table` did.

    Attributes:
      complete: whether the table is in place. False: other shards are still missing.
      rows: of the table, or of this shard.
      bad: how many images were left out of it.
    """

    complete: bool
    rows: int
    bad: int


def write_table(
    encoder: keras.Model,
    source,
    folder: str,
    *,
    kind: str,
    image_size: int,
    batch_size: int,
    strategy: tf.distribute.Strategy | None = None,
    shard: tuple[int, int] = (1, 1),
    skip_bad_images: bool = False,
    rows_per_part: int = ROWS,
) -> Written:
    """Writes a table, or resumes one: parts that are there and whole are kept.

    Args:
      encoder: from float32 [N, H, W, C] in [0, 1] to [N, D]; built under the strategy.
      source: the images.
      folder: of the table.
      kind: a key of `FORMATS`.
      image_size: side of the evaluation view in pixels.
      batch_size: the most images that a replica gets at a time.
      strategy: its replicas on this host share the work; None: the current device does it all.
      shard: (i, n), which of n machines this is, from 1; it computes each n-th part.
      skip_bad_images: leave out and list images that cannot be read, instead of stopping.
      rows_per_part: images per part.

    Returns:
      What was done.

    Raises:
      UserError: the folder holds another table, or one of images that have changed since; an image
        cannot be read, or its vector is not finite; a file cannot be written.
    """
    folder = folder.rstrip("/") or folder
    size = even_size(min(source.num_examples, rows_per_part), batch_size)
    facts = {
        "version": table.VERSION,
        "kind": kind,
        "encoder": encoder_fingerprint(encoder),
        "name": source.name,
        "split": source.split,
        "folder": _absolute(source.folder) if source.folder else None,
        "source": source.fingerprint,
        "labels": _digest_of(source.labels),
        "class_names": None if source.class_names is None else list(source.class_names),
        "image_size": image_size,
        "channels": source.channels,
        "D": int(encoder_shapes(encoder)[1][-1]),
        "N": source.num_examples,
        "rows_per_part": rows_per_part,
        "batch_size": size,
    }
    work = _begin(folder, facts)
    numbers = range(shard[0] - 1, table.num_parts(facts), shard[1])
    if work == folder:  # Complete: nothing is computed, but nothing may have changed either.
        for number in numbers:
            _refuse_changed(work, facts, source, number)
    else:
        missing = [number for number in numbers if not _is_done(work, facts, source, number)]
        _compute(
            *(encoder, source, work, facts, missing, len(numbers)),
            size=size,
            strategy=strategy,
            skip_bad_images=skip_bad_images,
        )
        if not _put_in_place(work, folder, facts):
            found = [storage.read_json(table.about_path(work, number)) for number in numbers]
            return Written(False, *_counts(found))
    everything = range(table.num_parts(facts))
    found = [storage.read_json(table.about_path(folder, number)) for number in everything]
    return Written(True, *_counts(found))


def _counts(found) -> tuple[int, int]:
    about = [part for part in found if part is not None]
    return sum(part["rows"] for part in about), sum(len(part["bad"]) for part in about)


def _begin(folder: str, facts: dict[str, Any]) -> str:
    """The folder to write to: the table itself if it is complete, else that of the unfinished."""
    if gfile.isdir(folder) and not gfile.listdir(folder):
        gfile.rmtree(folder)  # Made by the user, and empty.
    if gfile.exists(folder):
        table.refuse_other(folder, table.read_facts(folder), facts)
        return folder
    work = table.unfinished(folder)
    if gfile.exists(work) and gfile.listdir(work):
        there = table.read_facts(work)
        if there is None and all(name.startswith("_table.json") for name in gfile.listdir(work)):
            there = facts  # It ended while it wrote its first file.
            table.write_facts(work, facts)
        table.refuse_other(work, there, facts)
        return work
    with storage.naming(work):
        gfile.makedirs(work)
    table.write_facts(work, facts)
    return work


def _is_done(work: str, facts: dict[str, Any], source, number: int) -> bool:
    """Whether a part is there and whole, and its files are as they were; logs if not."""
    path = table.about_path(work, number)
    if not gfile.exists(path):
        return False
    try:
        table.read_part(work, facts, number)
    except Unusable as error:
        logging.warning("%s; computing it again.", error)
        return False
    if storage.read_json(path)["stamp"] == _stamp(source, facts, number):
        return True
    first, last = table.rows_of(facts, number)
    logging.warning(
        "Files from %s to %s were changed since their part was computed; computing it again.",
        *map(printable, source.names(np.array([first, last - 1]))),
    )
    return False


def _refuse_changed(folder: str, facts: dict[str, Any], source, number: int) -> None:
    about = storage.read_json(table.about_path(folder, number))
    if about is None or about.get("stamp") != _stamp(source, facts, number):
        first, last = table.rows_of(facts, number)
        names = list(map(printable, source.names(np.array([first, last - 1]))))
        raise UserError(
            f"the table {folder} is complete, but files from {names[0]} to {names[1]} were changed "
            f"since. Delete {folder}, or pass another --table."
        )


def _compute(
    encoder, source, work, facts, missing, parts, *, size, strategy, skip_bad_images
) -> None:
    """Computes and writes the missing parts in order, each while the next one is computed."""
    if not missing:
        return
    dataset = parts_dataset(
        source,
        missing,
        rows_per_part=facts["rows_per_part"],
        batch_size=size,
        image_size=facts["image_size"],
        skip_bad_images=skip_bad_images,
    )
    todo = sum(np.subtract(*table.rows_of(facts, number)[::-1]) for number in missing)
    done = (parts - len(missing)) * facts["rows_per_part"]
    progress = tqdm(
        total=int(done + todo), initial=done, desc="Embedding", unit="image", mininterval=5, delay=3
    )
    stamps = _one_ahead(_stamp(source, facts, number) for number in missing)
    batches = _computed(Computer(encoder, size, strategy), dataset)
    waiting, writing = list(missing), None
    with progress, _naming(source, facts, waiting), futures.ThreadPoolExecutor(1) as writer:
        for (number, found), stamp in zip(_by_part(batches, facts, missing, progress), stamps):
            waiting.remove(number)
            rows, bad = _rows(source, facts, number, found, skip_bad_images)
            if writing is not None:
                writing.result()
            writing = writer.submit(
                *(table.write_part, work, facts, number, rows), bad=bad, stamp=stamp
            )
        writing.result()


@contextlib.contextmanager
def _naming(source, facts: dict[str, Any], waiting: list[int]):
    """As `naming_bad_images`, but looks only into the first parts that wait, not at every image."""
    try:
        yield
    except READ_ERRORS:
        near = [np.arange(*table.rows_of(facts, number)) for number in waiting[:_LOOKED_INTO]]
        with naming_bad_images(source.take(np.concatenate(near)) if near else source):
            raise


def _computed(computer: Computer, dataset) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (images' numbers int64 [b], sizes int32 [b, 2], h float32 [b, D]) of each batch."""
    waiting: collections.deque = collections.deque()

    def images():
        for index, size, batch in dataset:
            waiting.append((index.numpy(), size.numpy()))
            yield batch

    for h in computer(images()):
        yield (*waiting.popleft(), h)


def _by_part(batches, facts, missing, progress):
    """Yields (part's number, its batches), as soon as a part is complete."""
    held = None
    for number in missing:
        first, last = table.rows_of(facts, number)
        found, count = [], 0
        while count < last - first:
            held = next(batches, None) if held is None else held
            if held is None or held[0][0] >= last:  # The rest of the part could not be read.
                break
            found.append(held)
            count += len(held[0])
            held = None
            progress.update(len(found[-1][0]))
        progress.update(last - first - count)
        yield number, found


def _rows(source, facts, number, found, skip_bad_images) -> tuple[Rows, list[str]]:
    """(the rows of a part, the images left out of it)."""
    first, last = table.rows_of(facts, number)
    empty = np.zeros(0, np.int64), np.zeros([0, 2], np.int32), np.zeros([0, facts["D"]], np.float32)
    index, sizes, h = (np.concatenate(part) for part in zip(empty, *found))
    finite = np.isfinite(h).all(axis=1)
    if not finite.all() and not skip_bad_images:
        names = source.names(index[~finite])
        raise UserError(
            f"the encoder gives vectors that are not finite for {len(names)} image(s): "
            f"{listed(names)}. An encoder that diverged does that; --skip_bad_images leaves them "
            "out."
        )
    index, sizes, h = index[finite], sizes[finite], h[finite]
    left_out = np.setdiff1d(np.arange(first, last), index)
    bad = _names(source, left_out)
    if bad:
        if source.folder and not gfile.isdir(source.folder):
            raise UserError(
                f"the folder {source.folder!r} cannot be found any more: it was moved or deleted, "
                "or its disk is not mounted. Restore it; the same command then resumes."
            )
        logging.warning("Left out %d image(s) that cannot be read: %s", len(bad), listed(bad))
    labels, label_names = None, None
    if source.labels is not None:
        labels = source.labels[index]
        label_names = [source.class_names[label] if label >= 0 else "" for label in labels]
    rows = Rows(h, _names(source, index), sizes, labels, label_names)
    return rows, list(map(text_of, bad))


def _put_in_place(work: str, folder: str, facts: dict[str, Any]) -> bool:
    """Renames the unfinished table if every part is there; returns whether it is in place."""
    everything = range(table.num_parts(facts))
    found = [storage.read_json(table.about_path(work, number)) for number in everything]
    if any(part is None for part in found):
        return gfile.exists(folder)  # Another shard may just have put it in place.
    if not sum(part["rows"] for part in found):
        raise bad_images_error([name for part in found for name in part["bad"]], facts["N"])
    bad = [name for part in found for name in part["bad"]]
    path = os.path.join(work, table.BAD_IMAGES)
    try:
        storage.write_whole(path, json.dumps({"bad_images": bad}, indent=1) + "\n")
        with storage.naming(folder):
            gfile.rename(work, folder)
    except UserError:
        if table.read_facts(folder) != facts:  # Else another shard has just done the same.
            raise
    return True


def _names(source, rows: np.ndarray) -> list[str]:
    """The names of images in the table: of files in a local folder, their absolute paths."""
    names = source.names(rows)
    return list(map(_absolute, names)) if source.folder else names


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _digest_of(labels: np.ndarray | None) -> str | None:
    if labels is None:
        return None
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()[:16]


def _stamp(source, facts: dict[str, Any], number: int) -> str | None:
    """A digest of the sizes and times of a part's files; None unless they are in a local folder.

    The source's fingerprint has names and sizes only, which a file that is edited may keep.
    """
    if source.folder is None or "://" in source.folder:
        return None

    def state(path):
        try:
            found = os.stat(path)
            return found.st_size, found.st_mtime_ns
        except OSError:
            return -1, -1

    with futures.ThreadPoolExecutor(_THREADS) as pool:
        paths = source.names(np.arange(*table.rows_of(facts, number)))
        states = list(pool.map(state, paths))
    return hashlib.sha256(np.array(states, "<i8").tobytes()).hexdigest()[:16]


def _one_ahead(values: Iterator) -> Iterator:
    """The same values, each computed before the one before it is used.

    Images are read ahead, so the times of their files are asked for earlier still.
    """
    previous = next(values)
    for value in values:
        yield previous
        previous = value
    yield previous
