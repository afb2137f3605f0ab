"""One LAMB update in float64 NumPy, written from the paper: the oracle of the optimiser tests.

You et al. 2019, arXiv:1904.00962, Algorithm 2, phi the identity; r_t, x_t and lambda are theirs:
  m_t = b1 m + (1 - b1) g,  v_t = b2 v + (1 - b2) g^2,  both divided by 1 - b^t to form
  r_t = m_hat / (sqrt(v_hat) + epsilon),
  x_{t+1} = x_t - lr * |x_t| / |r_t + lambda x_t| * (r_t + lambda x_t).
If either norm is 0 the ratio is 1, as in tensorflow-addons.
"""

from __future__ import annotations

import math

import numpy as np


def lamb_step(
    w: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    *,
    step: int,
    lr: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-6,
    weight_decay: float = 0.0,
    adapt: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the new weights and the new moments.

    Args:
      w: the weights, x_t above.
      g: their gradient, same shape.
      m: the mean of the gradients, not corrected for its bias, same shape.
      v: the mean of their squares, likewise.
      step: t above; 1 for the first.
      lr: this step's learning rate.
      beta_1: b1 above.
      beta_2: b2 above.
      epsilon: as above.
      weight_decay: lambda above.
      adapt: False for biases and normalisation variables: neither decay nor trust ratio.
    """
    w, g, m, v = (np.asarray(value, np.float64) for value in (w, g, m, v))
    m = beta_1 * m + (1.0 - beta_1) * g
    v = beta_2 * v + (1.0 - beta_2) * g**2
    update = m / (1.0 - beta_1**step) / (np.sqrt(v / (1.0 - beta_2**step)) + epsilon)
    ratio = 1.0
    if adapt:
        update = update + weight_decay * w
        w_norm = math.sqrt(float(np.sum(w**2)))
        update_norm = math.sqrt(float(np.sum(update**2)))
        if w_norm > 0.0 and update_norm > 0.0:
            ratio = w_norm / update_norm
    return w - lr * ratio * update, m, v
