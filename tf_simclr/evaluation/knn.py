"""A weighted vote of nearest neighbours on frozen features: no training, nothing to tune."""

from __future__ import annotations

import numpy as np

from tf_simclr.errors import UserError
from tf_simclr.evaluation.labelled import checked_features, checked_labels
from tf_simclr.evaluation.neighbors import blocks_of

_MOST_NEIGHBOURS = 200  # Wu et al. 2018, arXiv:1805.01978, section 3.4, for 50,000 images and more.


def default_k(train_y: np.ndarray) -> int:
    """How many neighbours should vote: min(sqrt(N), half the mean class, 200), at least 1.

    sqrt(N) is the rule of thumb (Duda, Hart & Stork, Pattern Classification, section 4.4). With
    more neighbours than a class has images, the others are of other classes. From about 40,000
    images on, k is 200 as in the literature, unless classes are small.

    Args:
      train_y: [N] integer labels of the training features.

    Returns:
      k, from 1 to 200.
    """
    half_a_class = len(train_y) // (2 * len(np.unique(train_y)))
    return max(1, min(round(len(train_y) ** 0.5), half_a_class, _MOST_NEIGHBOURS))


def knn_classify(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    *,
    k: int = 200,
    temperature: float = 0.07,
) -> np.ndarray:
    """Classifies by a vote of the k most similar training features, weighted by exp(cosine / T).

    Wu et al. 2018, arXiv:1805.01978, section 3.4. Ties go to the lowest class.

    Args:
      train_h: [N, D] float features.
      train_y: [N] integer labels from 0.
      test_h: [M, D] float features.
      k: neighbours that vote; at most N are used.
      temperature: T > 0.

    Returns:
      [M] int64, the winning class of each.

    Raises:
      UserError: k or temperature is out of range; features or labels do not fit or are not finite.
    """
    if not 0 < temperature < np.inf:
        raise UserError(f"temperature must be positive; received {temperature!r}.")
    train_h, test_h = checked_features(train_h, test_h)
    train_y = checked_labels("train_y", train_y, train_h)
    classes = int(train_y.max()) + 1
    winners = np.empty(len(test_h), np.int64)
    for block, indices, similarities in blocks_of(test_h, train_h, k, row_cost=classes):
        similarities = similarities.astype(np.float64)
        # Relative to the nearest, so that exp does not overflow at a low temperature.
        weight = np.exp((similarities - similarities[:, :1]) / temperature)
        rows = len(indices)
        cell = np.arange(rows)[:, np.newaxis] * classes + train_y[indices]
        votes = np.bincount(cell.ravel(), weight.ravel(), minlength=rows * classes)
        winners[block] = votes.reshape(rows, classes).argmax(axis=1)
    return winners


def knn_accuracy(
    train_h: np.ndarray, train_y: np.ndarray, test_h: np.ndarray, test_y: np.ndarray, **options
) -> float:
    """Accuracy of `knn_classify` (with its options) on the test features, in [0, 1]."""
    predicted = knn_classify(train_h, train_y, test_h, **options)
    return float(np.mean(predicted == checked_labels("test_y", test_y, predicted)))
