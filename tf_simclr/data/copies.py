"""Counts exact copies among the files of a folder, cheaply: only files of equal size are read."""

from __future__ import annotations

import collections
import hashlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MOST_FILES = 1000
MOST_BYTES = 2**28  # Of files read.


class Copies(NamedTuple):
    """How many files are copies of another one.

    Attributes:
      found: exact copies found, without the first of each.
      estimated: how many there are; equal to `found` if all files were looked at.
      files: N.
    """

    found: int
    estimated: int
    files: int

    def in_words(self) -> str:
        """Such as "12 of 1000 files are exact copies of others"."""
        about = "" if self.found == self.estimated else "about "
        return f"{about}{self.estimated} of {self.files} files are exact copies of others"


def count_copies(
    source, *, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES, seed: int = 0
) -> Copies | None:
    """Counts the files with the same bytes; None where the sizes of the files are not known.

    If too many files share their size with others, sizes are drawn at random, and the count is
    estimated from them. Files that cannot be read count as no copies.

    Args:
      source: any.
      most_files, most_bytes: how much is read.
      seed: of the draw.
    """
    sizes = source.store.file_sizes
    if sizes is None or (sizes < 0).any():
        return None
    order = np.argsort(sizes, kind="stable")
    values, starts, counts = np.unique(sizes[order], return_index=True, return_counts=True)
    shared = np.flatnonzero((counts > 1) & (values > 0))
    in_question = int(counts[shared].sum())
    read, found, left = 0, 0, most_bytes
    for which in np.random.default_rng(seed).permutation(shared):
        most = int(min(most_files - read, left // values[which]))
        if most < min(counts[which], 2):
            continue  # Smaller files may still fit.
        rows = np.sort(order[starts[which] : starts[which] + counts[which]])[:most]
        read += len(rows)
        left -= len(rows) * int(values[which])
        digests = collections.Counter(filter(None, map(_digest, source.names(rows))))
        found += sum(digests.values()) - len(digests)
    estimated = found if read >= in_question else round(found * in_question / max(read, 1))
    return Copies(found, estimated, len(sizes))


def _digest(name):
    try:
        with tf.io.gfile.GFile(name.encode("utf-8", "surrogateescape"), "rb") as file:
            return hashlib.blake2b(file.read(), digest_size=16).digest()
    except (OSError, tf.errors.OpError):
        return None
