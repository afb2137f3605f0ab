"""Measures of embeddings on the sphere: alignment, uniformity, standard deviation and rank.

All are computed in float32.
"""

from __future__ import annotations

import tensorflow as tf

_MASKED = -1e9  # Far below any exponent here, and finite in float32.


def alignment(z_a: tf.Tensor, z_b: tf.Tensor) -> tf.Tensor:
    """Mean squared distance between normalised positives, from 0 (equal views) to 4.

    Wang & Isola 2020, arXiv:2005.10242, eq. in section 4.2.1 with alpha = 2.

    Args:
      z_a: [n, D] embeddings of the first views.
      z_b: [n, D] embeddings of the second views.

    Returns:
      Scalar float32.
    """
    return tf.reduce_mean(tf.reduce_sum(tf.math.squared_difference(unit(z_a), unit(z_b)), axis=1))


def uniformity(z: tf.Tensor) -> tf.Tensor:
    """log E exp(-2 |z_i - z_j|^2) over i != j of normalised embeddings; 0 if they collapse.

    Lower is more uniform; -4 is the value for high-dimensional, evenly spread embeddings.
    Wang & Isola 2020, arXiv:2005.10242, section 4.2.2 with t = 2.

    Args:
      z: [n, D] embeddings, n >= 2. With n = 1 there are no pairs and the result is infinite.

    Returns:
      Scalar float32.
    """
    z = unit(z)
    n = tf.shape(z)[0]
    # |u - v|^2 = 2 - 2 u.v for unit vectors.
    exponent = 4.0 * tf.matmul(z, z, transpose_b=True) - 4.0
    exponent = tf.linalg.set_diag(exponent, tf.fill([n], _MASKED))
    pairs = tf.cast(n * (n - 1), tf.float32)
    return tf.reduce_logsumexp(exponent) - tf.math.log(pairs)


def embedding_std(z: tf.Tensor) -> tf.Tensor:
    """Spread of normalised embeddings: about 1 over the whole sphere, 0 if they are all equal.

    The standard deviation of each of the D coordinates over the batch, averaged over coordinates
    and multiplied by sqrt(D). (SimSiam, arXiv:2011.10566, section 4.1, does not multiply: there
    1/sqrt(D) means no collapse.)

    Args:
      z: [n, D] embeddings.

    Returns:
      Scalar float32.
    """
    z = unit(z)
    width = tf.cast(tf.shape(z)[1], tf.float32)
    return tf.reduce_mean(tf.math.reduce_std(z, axis=0)) * tf.sqrt(width)


def effective_rank(z: tf.Tensor) -> tf.Tensor:
    """Number of directions that normalised embeddings spread over: 1 on a line, D if isotropic.

    The participation ratio (tr C)^2 / tr C^2 of their covariance C: exp of the order-2 Renyi
    entropy of its eigenvalues (Roy & Vetterli 2007 use the Shannon entropy of the singular values).
    It takes one matrix product and no decomposition, cheap enough for every step.

    Args:
      z: [n, D] embeddings, n >= 2.

    Returns:
      Scalar float32 in [1, min(n - 1, D)]; 1 if all embeddings are equal.
    """
    z = unit(z)
    z = z - tf.reduce_mean(z, axis=0)
    n, width = z.shape
    wide = n is not None and n < width
    gram = tf.matmul(z, z, transpose_a=not wide, transpose_b=wide)  # Either form: same tr(gram^2).
    rank = tf.math.divide_no_nan(tf.reduce_sum(z * z) ** 2, tf.reduce_sum(gram * gram))
    return tf.maximum(rank, 1.0)


def unit(z: tf.Tensor) -> tf.Tensor:
    """Scales the rows of z [n, D] to length 1, in float32; rows of zeros stay zero."""
    return tf.math.l2_normalize(tf.cast(z, tf.float32), axis=-1)
