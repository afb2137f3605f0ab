"""NT-Xent as in SimCLR's Algorithm 1, in float64 Python and NumPy: the oracle of the loss tests.

Chen et al. 2020, arXiv:2002.05709, eq. 1 and Algorithm 1. Views are stacked, all first views and
then all second: view i of the first half has its positive at i + N, and the other way round.
"""

from __future__ import annotations

import math

import numpy as np

_NORM_FLOOR = 1e-12  # on the sum of squares, so that a zero vector stays zero


def nt_xent(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> float:
    """The paper's L: the mean of l(i, j) over 2N views, by a double loop over pairs of views.

    Args:
      z_a: [N, D] projections of the first views.
      z_b: [N, D] projections of the second views.
      temperature: the tau of eq. 1.
    """
    views = _normalized(z_a, z_b).tolist()
    count = len(views)
    total = 0.0
    for i in range(count):
        positive = (i + count // 2) % count
        logits = {
            k: math.fsum(p * q for p, q in zip(views[i], views[k])) / temperature
            for k in range(count)
            if k != i
        }
        top = max(logits.values())
        partition = math.fsum(math.exp(value - top) for value in logits.values())
        total += top + math.log(partition) - logits[positive]
    return total / count


def decoupled(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> float:
    """The decoupled contrastive loss, arXiv:2110.06848, eq. 6, by a double loop: its mean over 2N.

    The sum runs over both views of every other image: neither the view itself nor its positive.
    """
    views = _normalized(z_a, z_b)
    count = len(views)
    total = 0.0
    for i in range(count):
        positive = (i + count // 2) % count
        negatives = [k for k in range(count) if k not in (i, positive)]
        exponentials = [math.exp(views[i] @ views[k] / temperature) for k in negatives]
        total += math.log(math.fsum(exponentials)) - views[i] @ views[positive] / temperature
    return total / count


def decoupled_gradients(
    z_a: np.ndarray, z_b: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """dL/dz_a and dL/dz_b of `decoupled`, [N, D] each: NT-Xent's, with P over the negatives."""
    return _gradients(z_a, z_b, temperature, among_negatives=True)


def nt_xent_dense(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> float:
    """The same value from whole [2N, 2N] matrices, for batches too large for the loop."""
    return _dense(z_a, z_b, temperature, among_negatives=False)


def decoupled_dense(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> float:
    """`decoupled` from whole [2N, 2N] matrices."""
    return _dense(z_a, z_b, temperature, among_negatives=True)


def _dense(z_a, z_b, temperature, among_negatives):
    logits = _logits(z_a, z_b, temperature)
    rows, positives = np.arange(len(logits)), _positives(len(logits))
    of_positives = logits[rows, positives]
    if among_negatives:
        logits[rows, positives] = -np.inf
    top = logits.max(axis=1)
    partition = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float(np.mean(partition - of_positives))


def nt_xent_gradients(
    z_a: np.ndarray, z_b: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """dL/dz_a and dL/dz_b, [N, D] each.

    With u = z / |z|, P the softmax over the other views and Y the positives' one-hot rows:
    G = (P - Y) / (2N T),  dL/du = (G + G^T) u,  dL/dz = (dL/du - u (u . dL/du)) / |z|.
    """
    return _gradients(z_a, z_b, temperature, among_negatives=False)


def _gradients(z_a, z_b, temperature, among_negatives):
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    u = _normalized(z_a, z_b)
    logits = _logits(z_a, z_b, temperature)
    if among_negatives:
        logits[np.arange(len(z)), _positives(len(z))] = -np.inf
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    softmax[np.arange(len(z)), _positives(len(z))] -= 1.0
    g = softmax / (len(z) * temperature)
    du = (g + g.T) @ u
    norms = np.sqrt((z * z).sum(axis=1, keepdims=True))
    dz = (du - u * (u * du).sum(axis=1, keepdims=True)) / norms
    return dz[: len(z_a)], dz[len(z_a) :]


def positive_rank(z_a: np.ndarray, z_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the 2N - 2 negatives beat the positive, for each of the 2N views.

    Returns:
      (strict, with_ties), int [2N]: numbers of negatives that are more similar than the positive,
      and at least as similar. They differ only if similarities are equal.
    """
    views = _normalized(z_a, z_b)
    count = len(views)
    strict, with_ties = [], []
    for i in range(count):
        positive = (i + count // 2) % count
        similarity = [float(np.dot(views[i], views[k])) for k in range(count)]
        negatives = [similarity[k] for k in range(count) if k not in (i, positive)]
        strict.append(sum(value > similarity[positive] for value in negatives))
        with_ties.append(sum(value >= similarity[positive] for value in negatives))
    return np.array(strict), np.array(with_ties)


def _positives(count: int) -> np.ndarray:
    return (np.arange(count) + count // 2) % count


def _normalized(z_a: np.ndarray, z_b: np.ndarray) -> np.ndarray:
    z = np.concatenate([np.asarray(z_a), np.asarray(z_b)]).astype(np.float64)
    return z / np.sqrt(np.maximum((z * z).sum(axis=1, keepdims=True), _NORM_FLOOR))


def _logits(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> np.ndarray:
    u = _normalized(z_a, z_b)
    logits = u @ u.T / temperature
    np.fill_diagonal(logits, -np.inf)
    return logits
