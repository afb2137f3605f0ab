"""Is a representation alive? How many dimensions it uses."""

from __future__ import annotations

import numpy as np


def effective_rank(h: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of centred features.

    1: everything on a line (collapse); D: all dimensions used alike. Roy & Vetterli 2007, "The
    effective rank", eq. 4.

    Args:
      h: [N, D] float features, N >= 2.

    Returns:
      A number in [1, min(N - 1, D)]; 1.0 for features that are all the same.
    """
    values = np.linalg.svd(h - h.mean(axis=0), compute_uv=False)
    total = values.sum()
    if total <= 1e-12:
        return 1.0
    share = values / total
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
