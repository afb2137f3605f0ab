"""A weighted nearest-neighbour vote on frozen features: no training, no settings to tune."""

from __future__ import annotations

import numpy as np

from tf_simclr.errors import UserError

_CHUNK = 2048  # Test rows at a time: the similarity matrix stays small whatever the sets' sizes.


def knn_classify(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    *,
    k: int = 200,
    temperature: float = 0.07,
) -> np.ndarray:
    """Classes by a vote of the k most similar training features, weighted exp(cosine / T).

    Wu et al. 2018, arXiv:1805.01978, section 3.4.

    Args:
      train_h: [N, D] float features.
      train_y: [N] integer labels from 0.
      test_h: [M, D] float features.
      k: neighbours that vote; bounded by N.
      temperature: T > 0.

    Returns:
      [M] int64, the winning class of each.

    Raises:
      UserError: k or temperature out of range, or shapes that do not fit.
    """
    if k < 1:
        raise UserError(f"k must be at least 1; received {k!r}.")
    if not temperature > 0:
        raise UserError(f"temperature must be positive; received {temperature!r}.")
    if len(train_h) != len(train_y) or train_h.shape[1] != test_h.shape[1]:
        raise UserError(
            f"features and labels do not fit: train {train_h.shape}, labels {np.shape(train_y)}, "
            f"test {test_h.shape}."
        )
    train_y = np.asarray(train_y, np.int64)
    train_h, k = _unit(train_h), min(k, len(train_h))
    one_hot = np.eye(train_y.max() + 1)
    winners = []
    for start in range(0, len(test_h), _CHUNK):
        similarity = _unit(test_h[start : start + _CHUNK]) @ train_h.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        chosen = np.take_along_axis(similarity, nearest, axis=1)
        # Relative to the nearest, or exp would overflow at a low temperature.
        weight = np.exp((chosen - chosen.max(axis=1, keepdims=True)) / temperature)
        votes = np.einsum("mk,mkc->mc", weight, one_hot[train_y[nearest]])
        winners.append(votes.argmax(axis=1))
    return np.concatenate(winners)


def knn_accuracy(train_h, train_y, test_h, test_y, **options) -> float:
    """Share of test features that `knn_classify` (with its options) gets right."""
    return float(np.mean(knn_classify(train_h, train_y, test_h, **options) == test_y))


def _unit(h: np.ndarray) -> np.ndarray:
    return h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
