"""The negatives of NT-Xent from the whole matrix of logits: for small batches, any temperature."""

from __future__ import annotations

import tensorflow as tf

_MASKED = -1e9  # Far below any logit, and finite in float32.


def forward(u, others, bar):
    """(log Z [M], count [M] or None) of own rows, as `log_sum_of_negatives` in negatives.py."""
    logits = tf.concat([_own_logits(u), tf.matmul(u, others, transpose_b=True)], axis=1)
    reaching = None
    if bar is not None:
        reaching = tf.reduce_sum(tf.cast(logits >= bar[:, tf.newaxis], tf.int32), axis=1)
    return tf.reduce_logsumexp(logits, axis=1), reaching


def backward(u, others, mine, theirs):
    """dL/du [M, D] from (log Z, dL/dlog Z) of own rows [M, 2] and of the others'."""
    own = _softmax(_own_logits(u), mine)
    gradient = tf.matmul(own + tf.transpose(own), u)
    logits = tf.matmul(u, others, transpose_b=True)
    mutual = _softmax(logits, mine) + tf.transpose(_softmax(tf.transpose(logits), theirs))
    return gradient + tf.matmul(mutual, others)


def _own_logits(u):
    image = tf.range(tf.shape(u)[0]) // 2
    same = image[:, tf.newaxis] == image[tf.newaxis, :]
    return tf.where(same, _MASKED, tf.matmul(u, u, transpose_b=True))


def _softmax(logits, rows):
    """Softmax over the columns, times each row's upstream gradient."""
    log_z, upstream = tf.split(rows, 2, axis=1)
    return tf.exp(logits - log_z) * upstream
