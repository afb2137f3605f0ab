"""Features on disk: computed once, in parts, each of which is complete or absent.

FOLDER/<encoder fingerprint>/<split and digest of its images>/
  facts.json                the encoder, images and shapes of these features
  part-00000.npy            float32 [rows, D]: h of the first images, in the order of the source
  part-00000.json           their names and labels, and a checksum of the .npy; written last

Everything below FOLDER can be computed again, so it is safe to delete.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr import storage
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.errors import UserError
from tf_simclr.features.computing import Computer, even_size
from tf_simclr.features.fingerprint import encoder_fingerprint, images_key
from tf_simclr.models.encoder_interface import encoder_shapes
from tf_simclr.stack import keras

gfile = tf.io.gfile

ROWS = 8192  # Rows per part: 64 MiB at D = 2048. One part at a time is in memory.
_FORMAT = 1
_FACTS = "facts.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive rows of kept features.

    Attributes:
      start: position of the first row in the source.
      h: float32 [n, D]; memory-mapped and read-only for local files.
      names: the source's names for the images: paths, if they have any.
      labels: int64 [n], or None.
    """

    start: int
    h: np.ndarray
    names: list[str]
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Kept:
    """The features of a split, complete on disk.

    Attributes:
      folder: their folder.
      facts: "encoder" and "source" fingerprints, "name" and "split" of the source, "image_size",
        "channels", "D", "N", "rows_per_part", "class_names".
    """

    folder: str
    facts: dict[str, Any]

    def __len__(self) -> int:
        return self.facts["N"]

    def parts(self) -> Iterator[Part]:
        """Yields the parts in order, one at a time in memory."""
        for number in range(_num_parts(self.facts)):
            yield _read_part(self.folder, self.facts, number)

    def array(self) -> np.ndarray:
        """All of h, float32 [N, D], in memory."""
        h = np.empty([self.facts["N"], self.facts["D"]], np.float32)
        for part in self.parts():
            h[part.start : part.start + len(part.h)] = part.h
        return h


def keep(
    encoder: keras.Model,
    source,
    folder: str,
    *,
    image_size: int,
    batch_size: int,
    name: str = "",
    strategy: tf.distribute.Strategy | None = None,
    rows_per_part: int = ROWS,
) -> Kept:
    """Keeps h of every image of a source on disk, computing only the parts that are missing.

    Parts that are damaged, or whose `facts.json` differs, are logged and computed again.

    Args:
      encoder: a plain copy, built under the strategy, if there is one.
      source: the images; labels are kept if there are any.
      folder: such as WORKDIR/features.
      image_size, batch_size, name, strategy: as in `represent`.
      rows_per_part: images per file.

    Returns:
      The features.

    Raises:
      UserError: an image cannot be read, or a file cannot be written.
    """
    facts = _facts_of(encoder, source, image_size, rows_per_part)
    folder = os.path.join(folder, facts["encoder"], images_key(source, image_size))
    _begin(folder, facts)
    missing = [i for i in range(_num_parts(facts)) if not _is_intact(folder, facts, i)]
    if missing:
        size = even_size(min(facts["N"], rows_per_part), batch_size)
        computer = Computer(encoder, size, strategy)
        for number in tqdm(missing, name, mininterval=5, delay=3):
            _compute_part(computer, source, folder, facts, number, image_size, size)
    return Kept(folder, facts)


def read(folder: str) -> Kept:
    """Opens the features that `keep` wrote to a folder.

    Raises:
      UserError: the features are absent, incomplete or damaged; the message names the file.
    """
    facts = storage.read_json(os.path.join(folder, _FACTS))
    numbers = ("N", "D", "rows_per_part")
    if facts is None or facts.get("format") != _FORMAT:
        raise UserError(f"{folder} holds no features of this version: no readable {_FACTS}.")
    if not all(isinstance(facts.get(name), int) and facts[name] > 0 for name in numbers):
        raise UserError(f"{folder}/{_FACTS} is damaged; delete {folder} and compute them again.")
    for number in range(_num_parts(facts)):
        try:
            _check_part(folder, facts, number)
        except _Unusable as error:
            raise UserError(
                f"the features in {folder} cannot be used: {error}. The command that computed them "
                "computes what is missing."
            ) from error
    return Kept(folder, facts)


def mention_others(folder: str, used: set[str]) -> None:
    """Logs how much space the features of other encoders take.

    They are not deleted, as those encoders may be evaluated again.

    Args:
      folder: as in `keep`.
      used: fingerprints of the encoders in use.
    """
    there = gfile.listdir(folder) if gfile.isdir(folder) else []
    others = [name.rstrip("/") for name in there if name.rstrip("/") not in used]
    if not others:
        return
    bytes_taken = sum(
        gfile.stat(os.path.join(at, name)).length
        for other in others
        for at, _, names in gfile.walk(os.path.join(folder, other))
        for name in names
    )
    logging.info(
        "%s also holds features of %d other encoder(s), %.1f MiB. Deleting them, or the whole "
        "folder, costs only the time to compute them again.",
        *(folder, len(others), bytes_taken / 2**20),
    )


class _Unusable(Exception):
    """A part is missing or damaged; the argument says how."""


def _facts_of(encoder, source, image_size: int, rows_per_part: int) -> dict[str, Any]:
    names = source.class_names
    return {
        "format": _FORMAT,
        "encoder": encoder_fingerprint(encoder),
        "source": source.fingerprint,
        "name": source.name,
        "split": source.split,
        "image_size": image_size,
        "channels": source.channels,
        "D": int(encoder_shapes(encoder)[1][-1]),
        "N": source.num_examples,
        "rows_per_part": rows_per_part,
        "class_names": None if names is None else list(names),
    }


def _begin(folder: str, facts: dict[str, Any]) -> None:
    """Prepares the folder for these features; deletes any others in it."""
    path = os.path.join(folder, _FACTS)
    if gfile.exists(folder):
        if storage.read_json(path) == facts:
            return
        if gfile.listdir(folder):
            logging.warning("%s does not hold the features expected; computing them again.", folder)
        gfile.rmtree(folder)
    with storage.naming(folder):
        gfile.makedirs(folder)
    storage.write_whole(path, json.dumps(facts, indent=2) + "\n")


def _compute_part(computer, source, folder, facts, number, image_size, size) -> None:
    start = number * facts["rows_per_part"]
    rows = np.arange(start, min(start + facts["rows_per_part"], facts["N"]))
    part = source.take(rows)
    dataset = eval_dataset(part, batch_size=size, image_size=image_size)
    with naming_bad_images(part):
        h = np.concatenate(list(computer(dataset)))
    buffer = io.BytesIO()
    np.save(buffer, h)
    contents = buffer.getvalue()
    npy, facts_file = _paths(folder, number)
    storage.write_whole(npy, contents)
    about = {
        "crc32": zlib.crc32(contents),
        "names": [source.describe(int(row)) for row in rows],
        "labels": None if source.labels is None else source.labels[rows].tolist(),
    }
    storage.write_whole(facts_file, json.dumps(about))


def _is_intact(folder: str, facts: dict[str, Any], number: int) -> bool:
    """Whether a part can be used; logs if it exists but is damaged."""
    npy, facts_file = _paths(folder, number)
    if not gfile.exists(facts_file):  # Not computed yet, or interrupted before it was complete.
        return False
    try:
        _check_part(folder, facts, number)
    except _Unusable as error:
        logging.warning("%s; computing it again.", error)
        return False
    return True


def _check_part(folder: str, facts: dict[str, Any], number: int) -> None:
    """Raises _Unusable if a part is missing, or is not as it was written."""
    npy, facts_file = _paths(folder, number)
    about = storage.read_json(facts_file)
    contents = None if about is None else storage.read_bytes(npy)
    if contents is None:
        raise _Unusable(f"{npy} or {facts_file} is missing or damaged")
    rows = min(facts["rows_per_part"], facts["N"] - number * facts["rows_per_part"])
    labels, names = about.get("labels"), about.get("names")
    labelled = isinstance(labels, list) and len(labels) == rows
    if not (labelled or labels is None) or not isinstance(names, list) or len(names) != rows:
        raise _Unusable(f"{facts_file} is damaged")
    if zlib.crc32(contents) != about.get("crc32"):
        raise _Unusable(f"{npy} is damaged: its checksum is not that of {facts_file}")
    h = np.load(io.BytesIO(contents), allow_pickle=False)
    if h.shape != (rows, facts["D"]) or h.dtype != np.float32:
        raise _Unusable(f"{npy} is {h.dtype} {h.shape}, not float32 {(rows, facts['D'])}")


def _read_part(folder: str, facts: dict[str, Any], number: int) -> Part:
    npy, facts_file = _paths(folder, number)
    about = json.loads(storage.read_text(facts_file))
    if "://" in npy:
        h = np.load(io.BytesIO(storage.read_bytes(npy)), allow_pickle=False)
    else:
        h = np.load(npy, mmap_mode="r", allow_pickle=False)
    labels = about["labels"]
    return Part(
        number * facts["rows_per_part"],
        h,
        about["names"],
        None if labels is None else np.array(labels, np.int64),
    )


def _num_parts(facts: dict[str, Any]) -> int:
    return -(-facts["N"] // facts["rows_per_part"])


def _paths(folder: str, number: int) -> tuple[str, str]:
    stem = os.path.join(folder, f"part-{number:05d}")
    return stem + ".npy", stem + ".json"
