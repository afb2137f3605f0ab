"""One LARS update in float64 NumPy, written from the equations: the oracle of the optimiser tests.

You et al. 2017, arXiv:1708.03888, in the form the SimCLR reference uses it:
  g' = g + wd * w,  trust = eta * |w| / |g'| (1 where either norm is 0),
  v' = m * v + lr * trust * g',  w' = w - v'.
"""

from __future__ import annotations

import math

import numpy as np


def lars_step(
    w: np.ndarray,
    g: np.ndarray,
    v: np.ndarray,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    eta: float,
    adapt: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the new weights and the new momentum buffer.

    Args:
      w: the weights.
      g: their gradient, same shape.
      v: the momentum buffer, same shape.
      lr: this step's learning rate.
      momentum: m above.
      weight_decay: wd above.
      eta: the trust coefficient.
      adapt: False for biases and normalisation variables: neither decay nor trust ratio.
    """
    w, g, v = (np.asarray(value, np.float64) for value in (w, g, v))
    trust = 1.0
    if adapt:
        g = g + weight_decay * w
        w_norm = math.sqrt(float(np.sum(w**2)))
        g_norm = math.sqrt(float(np.sum(g**2)))
        if w_norm > 0.0 and g_norm > 0.0:
            trust = eta * w_norm / g_norm
    v = momentum * v + lr * trust * g
    return w - v, v
