"""Leaks: images of an evaluation set that are also among the images that are trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tf_simclr.duplicates.cosine import Neighborhood
from tf_simclr.duplicates.groups import BYTES, COSINE, KINDS, PIXELS, Finder, Groups
from tf_simclr.duplicates.hashing import Hashes, first_of

_MOST_ROWS = 2**12


class Leak(NamedTuple):
    """An image of the evaluation set, and the training image that it is a copy of.

    Attributes:
      row: of the evaluation set.
      of: of the training set, the nearest of the first kind that fits.
      kind: of `KINDS`.
      distance: as in `Groups`.
    """

    row: int
    of: int
    kind: str
    distance: float


def leaks_of(
    finder: Finder,
    groups: Groups,
    others: Hashes,
    neighborhood: Neighborhood | None = None,
    h: np.ndarray | None = None,
    share: float = 0.0,
) -> tuple[list[Leak], np.ndarray]:
    """Compares an evaluation set with the training set.

    Args:
      finder, groups: of the training set.
      others: hashes of the evaluation set.
      neighborhood, h, share: neighbours in the training set, vectors of the evaluation set, float32
        [M, D], and how near is a copy; None: no encoder.

    Returns:
      (one leak for each image of the evaluation set that has a copy, by row; the training images
      that have a copy in the evaluation set and their own copies, int64, increasing).
    """
    best: dict[int, tuple] = {}
    leaked = np.zeros(len(finder.hashes), bool)

    def add(kind, rows, found, distances):
        leaked[found] = True
        for row, of, distance in zip(rows.tolist(), found.tolist(), distances.tolist()):
            new = (KINDS.index(kind), distance, of)
            best[row] = min(best.get(row, new), new)

    bad = np.zeros(len(others), bool)
    bad[others.bad] = True
    good = np.flatnonzero(~bad)
    pairs = ((BYTES, finder.hashes.files, others.files),)
    pairs += ((PIXELS, finder.hashes.pixels, others.pixels),)
    for kind, ours, theirs in pairs:
        if ours.any() and theirs.any():
            place = first_of(ours, theirs[good])
            same = place >= 0
            add(kind, good[same], place[same], np.zeros(same.sum()))
    for first in range(0, len(good), _MOST_ROWS):
        for found in finder.near(others, good[first : first + _MOST_ROWS]):
            add(*found)
    if neighborhood is not None and h is not None:
        add(COSINE, *neighborhood.copies_in(h, share))
    leaks = [Leak(row, of, KINDS[kind], d) for row, (kind, d, of) in sorted(best.items())]
    whole = np.zeros_like(leaked)
    whole[groups.kept[leaked]] = True  # Copies of a leaked image leak as well.
    return leaks, np.flatnonzero(leaked | whole[groups.kept])
