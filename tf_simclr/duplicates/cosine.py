"""What an encoder adds: near copies by cosine, and outliers."""

from __future__ import annotations

import numpy as np

from tf_simclr.duplicates.groups import COSINE, Groups
from tf_simclr.evaluation.neighbors import nearest

NEIGHBORS = 10  # Of each image; a copy that is further down joins through another copy.
OUTLIER_NEIGHBOR = 5  # Whose distance makes an outlier: a pair of odd images is still odd.


class Neighborhood:
    """The nearest neighbours of the images that are kept, by cosine.

    Attributes:
      typical: the median distance, 1 - cosine, of an image to its nearest neighbour. Cosines of
        one encoder mean nothing for another, so distances are compared with it.
    """

    def __init__(self, h: np.ndarray, groups: Groups, bad: np.ndarray):
        """Finds them; takes time of order N^2 D.

        Args:
          h: float32 [N, D], the vectors of all images.
          groups: the copies found so far, which are not compared again.
          bad: int64 [n], images that have no vector.
        """
        self._kept = np.setdiff1d(groups.leaders, bad)
        self._h = h
        vectors = h[self._kept]
        found, similarity = nearest(vectors, vectors, NEIGHBORS + 1)
        others = found != np.arange(len(found))[:, np.newaxis]
        # Itself is first but for equal vectors; otherwise the last one is left out.
        others[others.all(axis=1), -1] = False
        shape = (len(found), found.shape[1] - 1)
        self._rows = self._kept[found[others].reshape(shape)]
        self._distances = np.maximum(1.0 - similarity[others].reshape(shape).astype(np.float64), 0)
        self.typical = float(np.median(self._distances[:, 0])) if shape[1] else 0.0

    def join(self, groups: Groups, share: float) -> None:
        """Adds near copies to the groups: those within `share` of the typical distance."""
        near = self._distances <= share * self.typical
        free = dict.fromkeys(self._kept[near.any(axis=1)].tolist(), True)
        for at in np.flatnonzero(near.any(axis=1)):
            row = int(self._kept[at])
            for other, distance in zip(self._rows[at][near[at]], self._distances[at][near[at]]):
                if other > row and free[row] and free.get(int(other), True):
                    free[int(other)] = False
                    groups.assign(int(other), row, COSINE, float(distance))
        groups.settle()

    def outliers(self, count: int) -> list[tuple[int, float]]:
        """The images furthest from their fifth neighbour, furthest first: (row, distance)."""
        if not self._distances.size:
            return []
        column = min(OUTLIER_NEIGHBOR, self._distances.shape[1]) - 1
        far = np.argsort(-self._distances[:, column], kind="stable")[:count]
        return [(int(self._kept[at]), float(self._distances[at, column])) for at in far]

    def copies_in(self, others: np.ndarray, share: float):
        """Near copies of other images, float32 [M, D]: (their rows, rows here, distances)."""
        found, similarity = nearest(others, self._h[self._kept], 1)
        distance = np.maximum(1.0 - similarity[:, 0].astype(np.float64), 0)
        rows = np.flatnonzero(distance <= share * self.typical)
        return rows, self._kept[found[rows, 0]], distance[rows]
