"""Semi-hard negatives: for every view, the most similar negative less similar than its positive."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.distribute import replica_number
from tf_simclr.losses import streaming
from tf_simclr.losses.negatives import Outcome, is_large

_FAR = 4.0  # Beyond any cosine.


class SemiHard:
    """The cosine of each row and its semi-hard negative, a `Part` of `negatives.over_replicas`.

    A negative is a view of another image, of all replicas. Semi-hard are those with a cosine below
    the row's bar; the most similar of them is chosen (FaceNet, arXiv:1503.03832, section 3.2). If
    no negative is below the bar, the least similar of all is, as in tensorflow-addons'
    TripletSemiHardLoss. The choice itself has no gradient.

    For the gradient each replica sends, per row, which row it chose and the upstream gradient.
    Large batches are compared some rows at a time, with memory linear in the batch; the gradient
    takes no product of all rows at all.
    """

    sent = None

    def __init__(self, bar: tf.Tensor):
        """
        Args:
          bar: [M] float32, a little below the cosine with the positive (`pairs.bar_of`).
        """
        self._bar = bar

    def forward(self, u, others):
        everything = tf.concat([u, others], axis=0)
        rows = tf.shape(u)[0]
        image = tf.cast(tf.range(rows) // 2, tf.float32)[:, tf.newaxis]
        columns = tf.concat([image[:, 0], tf.fill(tf.shape(others)[:1], -1.0)], axis=0)

        def choose(u, bar, image):
            cosines = tf.matmul(u, everything, transpose_b=True)
            negative = image != columns
            below = negative & (cosines < bar)
            hardest = tf.argmax(tf.where(below, cosines, -_FAR), axis=1, output_type=tf.int32)
            easiest = tf.argmin(tf.where(negative, cosines, _FAR), axis=1, output_type=tf.int32)
            chosen = tf.where(tf.reduce_any(below, axis=1), hardest, easiest)
            reaching = tf.math.count_nonzero(negative & ~below, axis=1)
            return tf.stack([tf.cast(chosen, tf.float32), tf.cast(reaching, tf.float32)], axis=1)

        inputs = [u, self._bar[:, tf.newaxis], image]
        if is_large(u.shape[0]):
            found = streaming.by_panels(choose, inputs, columns=everything.shape[0])
        else:
            found = choose(*inputs)
        chosen, reaching = tf.unstack(tf.cast(found, tf.int32), num=2, axis=1)
        cosine = tf.reduce_sum(u * tf.gather(everything, chosen), axis=1)
        # By its number among the rows of all replicas: a float32, exact up to 2^24.
        number = (chosen + replica_number() * rows) % tf.shape(everything)[0]
        return Outcome(cosine, [tf.cast(number, tf.float32)], reaching)

    def backward(self, u, others, mine, theirs):
        everything, numbers = tf.concat([u, others], axis=0), tf.concat([mine, theirs], axis=0)
        rows, count = tf.shape(u)[0], tf.shape(everything)[0]
        number, upstream = tf.cast(numbers[:, 0], tf.int32), numbers[:, 1:]
        chosen = (number - replica_number() * rows) % count  # Own rows come first.
        to_chosen = tf.math.unsorted_segment_sum(upstream * everything, chosen, count)[:rows]
        return upstream[:rows] * tf.gather(everything, chosen[:rows]) + to_chosen
