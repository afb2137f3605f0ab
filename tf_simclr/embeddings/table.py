"""A table on disk. It is in place only once it is complete.

TABLE.unfinished/           while it is written; renamed to TABLE at the end
  _table.json               the encoder, the images and the shapes of this table
  part-00000.parquet        the rows of the first images, in the order of the data set
  _part-00000.json          its checksums, how many rows it has, the images left out; written last
  _bad_images.json          the images left out of the whole table

Readers of Parquet pass over names that begin with "_".
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr import storage
from tf_simclr.embeddings.formats import FORMATS, Format
from tf_simclr.embeddings.rows import Rows
from tf_simclr.errors import UserError

gfile = tf.io.gfile

VERSION = 1
_FACTS = "_table.json"
BAD_IMAGES = "_bad_images.json"
# What a table records, as people call it.
_CALLED = {
    "version": "the version of the table",
    "kind": "--table_format",
    "encoder": "the encoder",
    "name": "the data set",
    "split": "the split",
    "folder": "the folder of images",
    "source": "the images (files were added, removed or changed)",
    "labels": "the labels",
    "class_names": "the classes",
    "image_size": "--image_size",
    "channels": "the channels",
    "D": "the width of the vectors",
    "N": "the number of images",
    "rows_per_part": "the rows of a part",
    "batch_size": "the size of a batch (--eval_batch_size), which can change the last bits",
}
_NUMBERS = ("N", "D", "rows_per_part", "image_size", "channels")


class Unusable(Exception):
    """A part is missing or damaged; the argument says how."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A complete table.

    Attributes:
      folder: its folder.
      facts: what it records of its encoder and images: the keys of `_CALLED`. N counts the images
        of the data set, those left out included.
      counts: how many rows each part has.
    """

    folder: str
    facts: dict[str, Any]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    def digest(self) -> str:
        """A digest of the checksums of its parts, hex: another for other vectors."""
        found = hashlib.sha256()
        for number in range(len(self.counts)):
            about = storage.read_json(about_path(self.folder, number)) or {}
            found.update(json.dumps(about.get("crc32"), sort_keys=True).encode())
        return found.hexdigest()[:16]

    def parts(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, Rows]]:
        """Yields (number of the first row, rows), one part in memory at a time.

        Args:
          numbers: the parts to read; None: all.

        Raises:
          UserError: a part is missing or damaged.
        """
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        for number in range(len(self.counts)) if numbers is None else numbers:
            try:
                rows = read_part(self.folder, self.facts, number)
            except Unusable as error:
                raise UserError(
                    f"the table {self.folder} is damaged: {error}. Delete the folder and compute "
                    "it again."
                ) from error
            yield int(starts[number]), rows

    def rows(self, wanted: Iterable[int]) -> dict[int, Rows]:
        """{row: that row alone}, reading only the parts that have some of them."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        wanted = np.unique(np.fromiter(wanted, np.int64))
        of = np.searchsorted(starts, wanted, side="right") - 1
        found = {}
        for first, part in self.parts(map(int, np.unique(of))):
            inside = wanted[(wanted >= first) & (wanted < first + len(part))]
            found.update((int(row), _one(part, int(row) - first)) for row in inside)
        return found


def _one(rows: Rows, i: int) -> Rows:
    # Copies: a view would keep all vectors of the part in memory.
    return Rows(
        rows.h[i : i + 1].copy(),
        [rows.paths[i]],
        rows.sizes[i : i + 1].copy(),
        None if rows.labels is None else rows.labels[i : i + 1].copy(),
        None if rows.label_names is None else [rows.label_names[i]],
    )


def open_table(folder: str) -> Table:
    """Opens a complete table; its parts are checked when they are read.

    Raises:
      UserError: there is none, it is unfinished, or a file of it is missing or damaged.
    """
    folder = folder.rstrip("/") or folder
    facts = read_facts(folder)
    if facts is None:
        beside = unfinished(folder)
        there = read_facts(beside)
        if not gfile.exists(folder) and there is not None:
            done = sum(gfile.exists(about_path(beside, i)) for i in range(num_parts(there)))
            raise UserError(
                f"the table {folder} is unfinished: {done} of {num_parts(there)} parts are in "
                f"{beside}. The --mode=embed command that began it resumes it."
            )
        raise UserError(
            f"{folder} is not a table of embeddings: it has no readable {_FACTS}. --mode=embed "
            "writes one."
        )
    if facts.get("version") != VERSION or facts.get("kind") not in FORMATS:
        raise UserError(f"the table {folder} was written by another version; compute it again.")
    if not all(isinstance(facts.get(name), int) and facts[name] > 0 for name in _NUMBERS):
        raise UserError(f"{os.path.join(folder, _FACTS)} is damaged; compute the table again.")
    counts = []
    for number in range(num_parts(facts)):
        about = storage.read_json(about_path(folder, number))
        if about is None or not isinstance(about.get("rows"), int):
            raise UserError(
                f"the table {folder} is damaged: {about_path(folder, number)} is missing or cannot "
                "be read. Delete the folder and compute it again."
            )
        counts.append(about["rows"])
    return Table(folder, facts, tuple(counts))


def unfinished(folder: str) -> str:
    """Where a table is written before it is complete."""
    return folder + ".unfinished"


def read_facts(folder: str) -> dict[str, Any] | None:
    """The facts of a table or of an unfinished one; None if the folder has none."""
    return storage.read_json(os.path.join(folder, _FACTS))


def write_facts(folder: str, facts: dict[str, Any]) -> None:
    """Writes the facts; raises UserError if that fails."""
    storage.write_whole(os.path.join(folder, _FACTS), json.dumps(facts, indent=2) + "\n")


def refuse_other(folder: str, there: dict[str, Any] | None, facts: dict[str, Any]) -> None:
    """Raises UserError, with what differs, if a folder does not hold the table of `facts`."""
    if there == facts:
        return
    advice = f"Delete {folder}, or pass another --table."
    if there is None:
        raise UserError(f"{folder} exists and is not a table of embeddings. {advice}")
    said = []
    for name in dict.fromkeys([*facts, *there]):
        before, now = there.get(name), facts.get(name)
        if before != now:
            short = all(isinstance(value, (int, str)) and value != "" for value in (before, now))
            values = f": {before} there, {now} now" if short else ""
            said.append(_CALLED.get(name, name) + values)
    raise UserError(f"{folder} is the table of something else. {'; '.join(said)}. {advice}")


def num_parts(facts: dict[str, Any]) -> int:
    """How many parts a table has."""
    return -(-facts["N"] // facts["rows_per_part"])


def rows_of(facts: dict[str, Any], number: int) -> tuple[int, int]:
    """(first, last + 1) of the images of a part, in the order of the data set."""
    first = number * facts["rows_per_part"]
    return first, min(first + facts["rows_per_part"], facts["N"])


def about_path(folder: str, number: int) -> str:
    """The JSON file of a part."""
    return os.path.join(folder, f"_part-{number:05d}.json")


def write_part(
    folder: str,
    facts: dict[str, Any],
    number: int,
    rows: Rows,
    *,
    bad: list[str],
    stamp: str | None,
) -> None:
    """Writes the files of a part; the one that says that it is complete comes last.

    Args:
      folder, facts, number: which part.
      rows: its rows.
      bad: the images that were left out.
      stamp: a digest of the sizes and times of its files; None if they are not known.

    Raises:
      UserError: a file cannot be written.
    """
    files = _format(facts).encode(rows, facts)
    for ending, contents in files.items():
        storage.write_whole(_path(folder, number, ending), contents)
    about = {
        "rows": len(rows),
        "crc32": {ending: zlib.crc32(contents) for ending, contents in files.items()},
        "bad": bad,
        "stamp": stamp,
    }
    storage.write_whole(about_path(folder, number), json.dumps(about))


def read_part(folder: str, facts: dict[str, Any], number: int) -> Rows:
    """Reads a part, and checks that it is as it was written.

    Raises:
      Unusable: it is missing or damaged.
    """
    about = storage.read_json(about_path(folder, number))
    if about is None:
        raise Unusable(f"{about_path(folder, number)} is missing or damaged")
    chosen = _format(facts)
    files = {}
    for ending in chosen.endings:
        path = _path(folder, number, ending)
        try:
            contents = storage.read_bytes(path)
        except (OSError, tf.errors.OpError) as error:
            raise Unusable(f"{path} cannot be read: {error}") from error
        if contents is None:
            raise Unusable(f"{path} is missing")
        if zlib.crc32(contents) != about.get("crc32", {}).get(ending):
            raise Unusable(f"{path} is damaged or cut off: its checksum differs")
        files[ending] = contents
    try:
        rows = chosen.decode(files)
    except ImportError:
        raise
    except Exception as error:  # Damaged files can fail in any way.
        raise Unusable(f"{_path(folder, number, '')}* cannot be decoded: {error}") from error
    if rows.h.shape != (about.get("rows"), facts["D"]) or len(rows.paths) != len(rows.h):
        raise Unusable(f"{_path(folder, number, '')}* has the shape {rows.h.shape}")
    return rows


def _format(facts: dict[str, Any]) -> Format:
    return FORMATS[facts["kind"]]


def _path(folder: str, number: int, ending: str) -> str:
    return os.path.join(folder, f"part-{number:05d}{ending}")
