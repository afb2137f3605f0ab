"""Pairs of embeddings as rows that losses compare, and what losses share about them."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_simclr.distribute import num_replicas
from tf_simclr.errors import UserError
from tf_simclr.losses.spread import unit

_TIE = 1e-6  # Cosines that differ by less are equal, as far as float32 can tell.
_COSINES = 2**20  # The sample of `random_cosines`: a tenth of a second.
MOST_DRAWN = 4096  # Candidates of a row of it: more are hardly another sample.


def rows_of(
    z_a: tf.Tensor, z_b: tf.Tensor, temperature: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Both views of each image as neighbouring rows, scaled so that products are logits.

    Args:
      z_a: [n, D] embeddings of the first views, any float dtype, not normalised.
      z_b: [n, D] embeddings of the second views, in the same order.
      temperature: T > 0; with 1 the products are cosines.

    Returns:
      (u [2n, D] float32 with u_i . u_k = s(i, k) / T, the views of image k in rows 2k and 2k + 1;
      s(i, j) / T of each row's positive j, [2n] float32).

    Raises:
      UserError: temperature is not positive, or the shapes differ.
    """
    check_temperature(temperature)
    z_a, z_b = tf.convert_to_tensor(z_a), tf.convert_to_tensor(z_b)
    if not z_a.shape.is_compatible_with(z_b.shape):
        raise UserError(f"z_a and z_b must have one shape; received {z_a.shape} and {z_b.shape}.")
    u_a, u_b = unit(z_a) / math.sqrt(temperature), unit(z_b) / math.sqrt(temperature)
    positive = tf.repeat(tf.reduce_sum(u_a * u_b, axis=1), 2)
    return tf.reshape(tf.stack([u_a, u_b], axis=1), [-1, z_a.shape[-1]]), positive


def bar_of(positive: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """The logit from which on a negative is as similar as the positive, within float32: [2n]."""
    return tf.stop_gradient(positive) - _TIE / temperature


def rank_of(reaching: tf.Tensor | None = None) -> tf.Tensor | None:
    """Counts [2n] by rows as `Contrast.positive_rank` has them, first views before second views."""
    if reaching is None:
        return None
    return tf.reshape(tf.transpose(tf.reshape(reaching, [-1, 2])), [-1])


def random_cosines(count: int, dim: int) -> np.ndarray:
    """Cosines of random directions in `dim` dimensions: a fixed sample, float64 [many, count].

    (1 + s) / 2 ~ Beta((D - 1) / 2, (D - 1) / 2) for the cosine s of two random unit vectors.
    """
    shape = [_COSINES // count, count]
    rng = np.random.default_rng(0)
    if dim == 1:
        return rng.choice([-1.0, 1.0], shape)
    return 2.0 * rng.beta((dim - 1) / 2, (dim - 1) / 2, shape) - 1.0


def check_temperature(temperature: float) -> None:
    """Raises UserError unless temperature is positive and finite."""
    if not 0.0 < temperature < math.inf:
        raise UserError(f"temperature must be positive; received {temperature!r}. Try 0.1 or 0.5.")


def require_negatives(z_a: tf.Tensor, loss: str) -> None:
    """Raises UserError if the global batch is a single image, which has no negatives."""
    pairs = tf.convert_to_tensor(z_a).shape[0]
    if pairs is not None:
        check_negatives(pairs * num_replicas(), loss)


def check_negatives(num_pairs: int, loss: str) -> None:
    """Raises UserError, naming the loss, if `num_pairs` of the global batch is 1."""
    if num_pairs < 2:
        raise UserError(f"the {loss} loss needs at least 2 images in a batch; received 1.")
