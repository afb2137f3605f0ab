"""Losses on pairs of views by double loops in float64: the oracles of their tests.

Views are stacked, all first views and then all second, as in `tests/reference/nt_xent.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def nt_logistic(z_a: np.ndarray, z_b: np.ndarray, temperature: float) -> float:
    """NT-Logistic, arXiv:2002.05709, table 2: log sigma(u.v+ / T) + log sigma(-u.v- / T), negated.

    The second part is the mean over all views of other images; the loss the mean over the views u.
    """
    views, count = _views(z_a, z_b)
    total = 0.0
    for i in range(count):
        of_negatives = []
        for k in range(count):
            logit = float(views[i] @ views[k]) / temperature
            if k == _other(i, count):
                total -= _log_sigma(logit)
            elif k != i:
                of_negatives.append(-_log_sigma(-logit))
        total += math.fsum(of_negatives) / len(of_negatives)
    return total / count


def triplet(z_a: np.ndarray, z_b: np.ndarray, margin: float) -> float:
    """Margin triplet, arXiv:2002.05709, table 2: max(u.v- - u.v+ + m, 0), with v- semi-hard.

    Semi-hard as in arXiv:1503.03832, section 3.2: the most similar of the negatives that are less
    similar than the positive; if there are none, the least similar negative.
    """
    views, count = _views(z_a, z_b)
    total = 0.0
    for i in range(count):
        positive = float(views[i] @ views[_other(i, count)])
        negatives = [
            float(views[i] @ views[k]) for k in range(count) if k not in (i, _other(i, count))
        ]
        semi_hard = [s for s in negatives if s < positive - 1e-6]
        total += max((max(semi_hard) if semi_hard else min(negatives)) - positive + margin, 0.0)
    return total / count


def supervised(z_a: np.ndarray, z_b: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """L_out, arXiv:2004.11362, eq. 2, divided by the number of views."""
    views, count = _views(z_a, z_b)
    classes = np.concatenate([labels, labels])
    total = 0.0
    for i in range(count):
        logits = {a: float(views[i] @ views[a]) / temperature for a in range(count) if a != i}
        top = max(logits.values())
        log_all = top + math.log(math.fsum(math.exp(value - top) for value in logits.values()))
        positives = [p for p in logits if classes[p] == classes[i]]
        total -= math.fsum(logits[p] - log_all for p in positives) / len(positives)
    return total / count


def slopes(
    loss: Callable, z_a: np.ndarray, z_b: np.ndarray, step: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of loss(z_a, z_b) by central differences, [N, D] each."""
    found = []
    for part in range(2):
        slope = np.zeros(np.shape(z_a))
        for place in np.ndindex(slope.shape):
            values = []
            for sign in (1, -1):
                moved = [np.array(z, np.float64) for z in (z_a, z_b)]
                moved[part][place] += sign * step
                values.append(loss(*moved))
            slope[place] = (values[0] - values[1]) / (2 * step)
        found.append(slope)
    return found[0], found[1]


def _views(z_a, z_b):
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    return z / np.linalg.norm(z, axis=1, keepdims=True), len(z)


def _other(i, count):
    return (i + count // 2) % count


def _log_sigma(x):
    """log(1 / (1 + exp(-x))) without overflow."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))
