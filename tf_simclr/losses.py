"""NT-Xent and its relatives: pure functions of embeddings, and a thin Keras loss.

Everything here is computed in float32 whatever the embeddings' dtype.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from tf_simclr.distribute import all_gather, num_replicas
from tf_simclr.errors import UserError

_MASKED = -1e9  # Far below any logit (|logit| <= 1 / temperature), and finite in float32.


class NTXentOutput(NamedTuple):
    """What `nt_xent` returns."""

    loss: tf.Tensor
    """Scalar float32: the mean of l(i, j) over the 2n views of this replica."""
    positive_rank: tf.Tensor
    """[2n] int32: how many of the 2N-2 negatives are at least as similar as the positive."""


def nt_xent(z_a: tf.Tensor, z_b: tf.Tensor, temperature: float = 0.1) -> NTXentOutput:
    """The normalised temperature-scaled cross entropy loss.

    With s(i, k) the cosine similarity and j the other view of the same image,

        l(i, j) = -log( exp(s(i, j) / T) / sum_{k != i} exp(s(i, k) / T) ),
        L = mean of l over all 2N views

    (SimCLR, arXiv:2002.05709, eq. 1 and Algorithm 1). In a replica context the rows i are this
    replica's views and the columns k are the views of all replicas, with gradients through the
    gather: the mean of the replicas' losses is L over the global batch.

    Differs from google-research/simclr (tf2/objective.py): that returns the sum of two means,
    twice the paper's L.

    Args:
      z_a: [n, D] embeddings of the first views, any float dtype, not normalised.
      z_b: [n, D] embeddings of the second views, in the same order.
      temperature: T > 0.

    Returns:
      The loss and the rank of each positive, first views before second views. Ties count against
      the positive, so that a collapsed encoder does not look perfect.

    Raises:
      UserError: temperature is not positive, or the shapes differ.
    """
    check_temperature(temperature)
    z_a, z_b = tf.convert_to_tensor(z_a), tf.convert_to_tensor(z_b)
    if not z_a.shape.is_compatible_with(z_b.shape):
        raise UserError(f"z_a and z_b must have one shape; received {z_a.shape} and {z_b.shape}.")
    z = tf.concat([_unit(z_a), _unit(z_b)], axis=0)
    columns, offset = all_gather(z)
    rows = tf.range(tf.shape(z)[0])
    own = offset + rows
    positive = offset + tf.roll(rows, shift=tf.shape(z_a)[0], axis=0)

    logits = tf.matmul(z, columns, transpose_b=True) / temperature
    column = tf.range(tf.shape(columns)[0])[tf.newaxis, :]
    logits = tf.where(column == own[:, tf.newaxis], _MASKED, logits)
    positive_logit = tf.gather(logits, positive, axis=1, batch_dims=1)
    loss = tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - positive_logit)

    harder = tf.reduce_sum(tf.cast(logits >= positive_logit[:, tf.newaxis], tf.int32), axis=1) - 1
    return NTXentOutput(loss, harder)


@tf.keras.utils.register_keras_serializable(package="tf_simclr")
class NTXent(tf.keras.losses.Loss):
    """`nt_xent` as a Keras loss: `NTXent(temperature)(z_a, z_b)` is the paper's L, a scalar.

    Outside a replica context, and there with one replica, it is L over the batch; in a replica
    context it is this replica's share, whose mean over replicas is L over the global batch.

    Attributes:
      temperature: T > 0; 0.1 is best for ImageNet, 0.5 for CIFAR-10 (paper, section 5.1 and
        appendix B.9).
    """

    def __init__(self, temperature: float = 0.1, name: str = "nt_xent"):
        check_temperature(temperature)
        super().__init__(reduction="none", name=name)  # `nt_xent` reduces by itself.
        self.temperature = temperature

    def call(self, y_true, y_pred):
        return nt_xent(y_true, y_pred, self.temperature).loss

    def get_config(self):
        return {"temperature": self.temperature, "name": self.name}


def chance_level(num_pairs: int) -> float:
    """L when nothing has been learnt: log(2N - 1), each of the 2N - 1 others equally likely."""
    return math.log(2 * num_pairs - 1)


def alignment(z_a: tf.Tensor, z_b: tf.Tensor) -> tf.Tensor:
    """Mean squared distance of normalised positives, 0 (views agree) to 4.

    Wang & Isola 2020, arXiv:2005.10242, eq. in section 4.2.1 with alpha = 2.

    Args:
      z_a: [n, D] embeddings of the first views.
      z_b: [n, D] embeddings of the second views.

    Returns:
      Scalar float32.
    """
    return tf.reduce_mean(tf.reduce_sum(tf.math.squared_difference(_unit(z_a), _unit(z_b)), axis=1))


def uniformity(z: tf.Tensor) -> tf.Tensor:
    """log E exp(-2 |z_i - z_j|^2) over i != j of normalised embeddings; 0 when collapsed.

    Lower is more uniform; -4 is the value for high-dimensional, evenly spread embeddings.
    Wang & Isola 2020, arXiv:2005.10242, section 4.2.2 with t = 2.

    Args:
      z: [n, D] embeddings, n >= 2.

    Returns:
      Scalar float32.
    """
    z = _unit(z)
    n = tf.shape(z)[0]
    # |u - v|^2 = 2 - 2 u.v for unit vectors.
    exponent = 4.0 * tf.matmul(z, z, transpose_b=True) - 4.0
    exponent = tf.linalg.set_diag(exponent, tf.fill([n], _MASKED))
    pairs = tf.cast(n * (n - 1), tf.float32)
    return tf.reduce_logsumexp(exponent) - tf.math.log(pairs)


def embedding_std(z: tf.Tensor) -> tf.Tensor:
    """Spread of normalised embeddings: 1 on the whole sphere, 0 when they all collapse to a point.

    The standard deviation over the batch of each of the D coordinates, averaged and multiplied by
    sqrt(D) (SimSiam, arXiv:2011.10566, section 4.1, where 1/sqrt(D) means no collapse).

    Args:
      z: [n, D] embeddings.

    Returns:
      Scalar float32.
    """
    z = _unit(z)
    width = tf.cast(tf.shape(z)[1], tf.float32)
    return tf.reduce_mean(tf.math.reduce_std(z, axis=0)) * tf.sqrt(width)


def check_temperature(temperature: float) -> None:
    """Raises UserError unless temperature is positive and finite."""
    if not 0.0 < temperature < math.inf:
        raise UserError(f"temperature must be positive; received {temperature!r}. Try 0.1 or 0.5.")


def replica_share(loss: tf.Tensor) -> tf.Tensor:
    """loss / replicas: optimisers sum gradients over replicas, the paper's L is their mean."""
    return loss / num_replicas()


def _unit(z: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(z, tf.float32), axis=-1)
