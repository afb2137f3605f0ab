"""The mean similarity of every view to the other views of its class."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.losses.negatives import Outcome


class SameClass:
    """mean over p of u_i . u_p, a `Part` of `negatives.over_replicas`: p has the label of i.

    It needs no product of rows with rows: the sum over p is u_i . (S - u_i), with S the sum of the
    rows of the class. With w = 1 / (the rows of the class - 1) and the upstream gradient g,

        dL/du_i = w sum_p (g_i + g_p) u_p.

    Memory is linear in the batch, and the number of classes need not be known.
    """

    def __init__(self, labels: tf.Tensor):
        """
        Args:
          labels: [M / 2] integers, the class of each image of this replica.
        """
        # Four numbers of 16 bits, which float32 holds exactly.
        halves = tf.bitcast(tf.cast(tf.repeat(labels, 2), tf.int64), tf.uint16)
        self.sent = tf.cast(halves, tf.float32)

    def forward(self, u, others, theirs):
        halves = tf.cast(tf.concat([self.sent, theirs], axis=0), tf.int32)
        self._class = _numbers(tf.bitcast(tf.cast(halves, tf.uint16), tf.int64))
        everything, rows = tf.concat([u, others], axis=0), tf.shape(u)[0]
        size = self._of_class(tf.ones_like(everything[:, :1]))[:rows, 0]
        self._share = 1.0 / (size - 1.0)  # Both views of an image are in its class.
        sums = self._of_class(everything)[:rows]
        return Outcome(tf.reduce_sum(u * (sums - u), axis=1) * self._share, [])

    def backward(self, u, others, mine, theirs):
        everything, upstream = tf.concat([u, others], axis=0), tf.concat([mine, theirs], axis=0)
        rows = tf.shape(u)[0]
        sums = self._of_class(everything)[:rows]
        weighted = self._of_class(upstream * everything)[:rows]
        own = mine * (sums - u) + weighted - mine * u
        return own * self._share[:, tf.newaxis]

    def _of_class(self, values):
        """The sum of the values [R M, c] over the rows of each row's class."""
        sums = tf.math.unsorted_segment_sum(values, self._class, tf.shape(values)[0])
        return tf.gather(sums, self._class)


def _numbers(labels):
    """Numbers classes from 0, below the number of rows: [n] int32 from labels [n]."""
    order = tf.argsort(labels)
    ordered = tf.gather(labels, order)
    starts = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    number = tf.cumsum(tf.concat([[0], starts], axis=0))
    return tf.scatter_nd(order[:, tf.newaxis], number, tf.shape(labels))
