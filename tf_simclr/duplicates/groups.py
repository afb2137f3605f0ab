"""Groups of copies: each image that is left out was compared with the one it is a copy of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tf_simclr.duplicates.hashing import Hashes, first_equal
from tf_simclr.duplicates.near import HashIndex

BYTES, PIXELS, HASH, MIRRORED, CROPPED, COSINE = KINDS = (
    *("bytes", "pixels", "hash", "mirrored", "cropped"),
    "cosine",
)
_MOST_ROWS = 2**14  # Searched for at a time.
_MANY_PAIRS = 2**20


@dataclasses.dataclass
class Groups:
    """Which image each image is a copy of.

    Attributes:
      of: int64 [N], the image that it was found to be a copy of; itself for one that is kept.
      kept: int64 [N], the image of its group that is kept: the first.
      kind: int64 [N], the place in `KINDS` of how it was found; -1 for one that is kept.
      distance: float64 [N], to `of`: bits of the hash, or 1 - cosine; 0 for the exact kinds.
    """

    of: np.ndarray
    kept: np.ndarray
    kind: np.ndarray
    distance: np.ndarray

    @classmethod
    def of_none(cls, count: int) -> Groups:
        """N images, all kept."""
        rows = np.arange(count)
        return cls(rows.copy(), rows.copy(), np.full(count, -1), np.zeros(count))

    @property
    def leaders(self) -> np.ndarray:
        """The images that are kept, int64, increasing."""
        return np.flatnonzero(self.kept == np.arange(len(self.kept)))

    def assign(self, row: int, leader: int, kind: str, distance: float) -> None:
        """Makes `row`, which is kept so far, a copy of `leader`; its own copies follow it."""
        self.of[row], self.kept[row] = leader, leader
        self.kind[row], self.distance[row] = KINDS.index(kind), distance

    def settle(self) -> None:
        """Lets copies of copies point to the image that is kept."""
        while (self.kept != self.kept[self.kept]).any():
            self.kept = self.kept[self.kept]


class Finder:
    """Finds which of some images others are copies of."""

    def __init__(self, hashes: Hashes, bits: int):
        """Indexes images, of which those with equal pixels count once: the first.

        Args:
          hashes: of the images.
          bits: in how many bits the perceptual hashes of near copies may differ.
        """
        self.hashes = hashes
        self._bits = bits
        bad = np.zeros(len(hashes), bool)
        bad[hashes.bad] = True
        first = first_equal(hashes.pixels)
        self.distinct = np.flatnonzero((first == np.arange(len(hashes))) & ~bad)
        self._keys = self.distinct[~hashes.flat[self.distinct]]
        self._index = HashIndex(hashes.hashes[self._keys])
        self._crops = [HashIndex(crop[self._keys]) for crop in hashes.cropped]

    def near(self, others: Hashes, rows: np.ndarray) -> Iterator[tuple]:
        """Yields near copies of `others`' images `rows`, int64 [n], among the distinct ones.

        Yields:
          (kind, rows of `others`, images, distances), a pair possibly several times.
        """
        rows = rows[~others.flat[rows]]
        whole = others.hashes[rows]
        searches = [
            (HASH, whole, self._index),
            (MIRRORED, others.mirrored[rows], self._index),
            *((CROPPED, crop[rows], self._index) for crop in others.cropped),
            *((CROPPED, whole, crops) for crops in self._crops),
        ]
        for kind, queries, index in searches:
            for query, key, distance in index.near(queries, self._bits):
                yield kind, rows[query], self._keys[key], distance


def groups_of(finder: Finder) -> Groups:
    """The groups by digests and hashes.

    Images are taken in order: the first is kept, and its near copies among those not yet assigned
    are left out. So an image is near the one that is kept for it; no chain leads on from there.
    """
    hashes = finder.hashes
    groups = Groups.of_none(len(hashes))
    good = np.ones(len(hashes), bool)
    good[hashes.bad] = False
    for kind, digests in ((PIXELS, hashes.pixels), (BYTES, hashes.files)):
        if not digests.any():
            continue  # No files.
        first = first_equal(digests)
        copies = np.flatnonzero((first != np.arange(len(first))) & good)
        groups.of[copies] = groups.kept[copies] = first[copies]
        groups.kind[copies] = KINDS.index(kind)
    groups.settle()
    free = np.zeros(len(hashes), bool)
    free[finder.distinct] = True
    done, size = 0, 16
    while done < len(finder.distinct):
        rows = finder.distinct[done : done + size]
        done += size
        found = _later(finder, rows[free[rows]], free)
        for row, other, kind, distance in found:
            if free[row] and free[other]:
                free[other] = False
                groups.assign(other, row, KINDS[kind], distance)
        # Once a large group has its leader, its other members are not searched for any more.
        size = min(2 * size, _MOST_ROWS) if len(found) < _MANY_PAIRS else max(size // 4, 16)
    groups.settle()
    return groups


def _later(finder, rows, free):
    """[(row, later image that is free, kind, distance)], by row; nearest first."""
    parts = [np.zeros([0, 4], np.int64)]
    for kind, row, other, distance in finder.near(finder.hashes, rows):
        later = (other > row) & free[other]
        kinds = np.full(len(row), KINDS.index(kind))
        parts.append(np.stack([row, other, kinds, distance], axis=1)[later])
    pairs = np.concatenate(parts)
    return pairs[np.lexsort(pairs.T[[1, 2, 3, 0]])].tolist()
