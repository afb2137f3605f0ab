"""Is a representation alive? How many dimensions it uses."""

from __future__ import annotations

import numpy as np

from tf_simclr.errors import UserError


def effective_rank(h: np.ndarray) -> float:
    """exp of the entropy of the singular values, scaled to sum 1, of centred features.

    1: everything on a line (dimensional collapse); D: all dimensions used alike. Roy & Vetterli
    2007, "The effective rank: a measure of effective dimensionality", definition 1.

    Args:
      h: [N, D] float features, N >= 2.

    Returns:
      A number in [1, min(N - 1, D)]; 1.0 for features that are all the same.

    Raises:
      UserError: no matrix of at least two rows of finite numbers.
    """
    h = np.asarray(h, np.float64)
    if h.ndim != 2 or len(h) < 2 or h.shape[1] == 0 or not np.isfinite(h).all():
        raise UserError(
            f"h must be finite features [N, D] of at least 2 examples; received {h.shape}."
        )
    h = h - h.mean(axis=0)
    # The smaller Gram matrix has the squared singular values: a set of any size takes D x D.
    squared = np.linalg.eigvalsh(h.T @ h if len(h) > h.shape[1] else h @ h.T)
    noise = squared.max() * len(squared) * np.finfo(np.float64).eps
    values = np.sqrt(squared[squared > noise])
    if not values.sum() > 1e-12:
        return 1.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
