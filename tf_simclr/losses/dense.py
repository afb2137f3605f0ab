"""Sums over negatives from the whole matrix of logits: for small batches, at any temperature."""

from __future__ import annotations

import tensorflow as tf

_MASKED = -1e9  # Far below any logit, and finite in float32.


def forward(term, u, others, bar):
    """(sum [M], count [M] or None) of this replica's rows; see `negatives.Sum`."""
    logits = tf.concat([_own_logits(u), tf.matmul(u, others, transpose_b=True)], axis=1)
    reaching = None
    if bar is not None:
        reaching = tf.reduce_sum(tf.cast(logits >= bar[:, tf.newaxis], tf.int32), axis=1)
    return term.whole(logits), reaching


def backward(term, u, others, mine, theirs):
    """dL/du [M, D] from (sum, dL/dsum) of this replica's rows [M, 2] and of the others'."""
    own, across = _own_logits(u), tf.matmul(u, others, transpose_b=True)
    of_rows = term.whole_slope(own, *tf.split(mine, 2, axis=1))
    of_others = term.whole_slope(across, *tf.split(tf.transpose(theirs), 2))
    mutual = term.whole_slope(across, *tf.split(mine, 2, axis=1)) + of_others
    return tf.matmul(of_rows + tf.transpose(of_rows), u) + tf.matmul(mutual, others)


def _own_logits(u):
    image = tf.range(tf.shape(u)[0]) // 2
    same = image[:, tf.newaxis] == image[tf.newaxis, :]
    return tf.where(same, _MASKED, tf.matmul(u, u, transpose_b=True))
