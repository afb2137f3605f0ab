"""Alignment and uniformity, by loops over float64 vectors: oracles.

Wang & Isola 2020, arXiv:2005.10242, eq. 1 and 2 (alpha = 2, t = 2).
"""

from __future__ import annotations

import math

import numpy as np


def alignment(z_a: np.ndarray, z_b: np.ndarray) -> float:
    """Mean squared distance of L2-normalised positives [N, D]; 0 = identical, 4 = opposite."""
    distances = []
    for a, b in zip(_normalized(z_a), _normalized(z_b)):
        distances.append(math.fsum((p - q) ** 2 for p, q in zip(a, b)))
    return math.fsum(distances) / len(distances)


def uniformity(z: np.ndarray) -> float:
    """log of the mean of exp(-2 |u_i - u_j|^2) over i != j; 0 = collapsed, lower = more spread."""
    u = _normalized(z)
    potentials = []
    for i in range(len(u)):
        for j in range(len(u)):
            if i != j:
                potentials.append(math.exp(-2.0 * math.fsum((u[i] - u[j]) ** 2)))
    return math.log(math.fsum(potentials) / len(potentials))


def _normalized(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, np.float64)
    return np.stack([row / math.sqrt(math.fsum(row**2)) for row in z])
