"""A weighted nearest-neighbour vote on frozen features: no training, no settings to tune."""

from __future__ import annotations

import numpy as np

from tf_simclr.errors import UserError
from tf_simclr.evaluation.labelled import checked_features, checked_labels
from tf_simclr.evaluation.progress import reported

# Similarities in memory at a time, whatever the sets' sizes: 256 MB as float32, with what ranks
# them about 1 GB.
_MOST_SIMILARITIES = 2**26

_MOST_NEIGHBOURS = 200  # Wu et al. 2018, arXiv:1805.01978, section 3.4, for 50,000 images and more.


def default_k(train_y: np.ndarray) -> int:
    """How many neighbours should vote: min(sqrt(N), half the mean class, 200), at least 1.

    sqrt(N) is the rule of thumb (Duda, Hart & Stork, Pattern Classification, section 4.4).
    Neighbours beyond the size of a class can only be of other classes. From about 40,000 images on
    k is the literature's 200.

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
    """Classes by a vote of the k most similar training features, weighted exp(cosine / T).

    Wu et al. 2018, arXiv:1805.01978, section 3.4. Equal votes go to the lowest class.

    Args:
      train_h: [N, D] float features.
      train_y: [N] integer labels from 0.
      test_h: [M, D] float features.
      k: neighbours that vote; bounded by N.
      temperature: T > 0.

    Returns:
      [M] int64, the winning class of each.

    Raises:
      UserError: k or temperature out of range; features or labels that do not fit or are no
        numbers.
    """
    if not k >= 1:
        raise UserError(f"k must be at least 1; received {k!r}.")
    if not 0 < temperature < np.inf:
        raise UserError(f"temperature must be positive; received {temperature!r}.")
    train_h, test_h = checked_features(train_h, test_h)
    train_y = checked_labels("train_y", train_y, train_h)
    train_h, k, classes = _unit(train_h), min(int(k), len(train_h)), int(train_y.max()) + 1
    rows = max(_MOST_SIMILARITIES // max(len(train_h), classes), 1)
    starts = range(0, len(test_h), rows)
    winners = []
    for start in reported(starts, len(starts), "nearest neighbours"):
        similarity = _unit(test_h[start : start + rows]) @ train_h.T
        # The k greatest, in no order.
        nearest = np.argpartition(similarity, len(train_h) - k, axis=1)[:, len(train_h) - k :]
        chosen = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        # Relative to the nearest, or exp would overflow at a low temperature.
        weight = np.exp((chosen - chosen.max(axis=1, keepdims=True)) / temperature)
        cell = np.arange(len(chosen))[:, np.newaxis] * classes + train_y[nearest]
        votes = np.bincount(cell.ravel(), weight.ravel(), minlength=len(chosen) * classes)
        winners.append(votes.reshape(len(chosen), classes).argmax(axis=1))
    return np.concatenate(winners)


def knn_accuracy(
    train_h: np.ndarray, train_y: np.ndarray, test_h: np.ndarray, test_y: np.ndarray, **options
) -> float:
    """Share in [0, 1] of the test features that `knn_classify` (with its options) gets right."""
    predicted = knn_classify(train_h, train_y, test_h, **options)
    return float(np.mean(predicted == checked_labels("test_y", test_y, predicted)))


def _unit(h: np.ndarray) -> np.ndarray:
    return h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
