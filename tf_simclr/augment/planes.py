"""Images as a list of channel planes, the layout that the colour operations use.

On planes [B, H * W] every colour operation is elementwise and vectorises. With the channels
innermost, reductions over an axis of three would dominate the time.
"""

from __future__ import annotations

import tensorflow as tf


def to_planes(x: tf.Tensor) -> list[tf.Tensor]:
    """[B, H, W, C] to C planes [B, H * W]."""
    x = tf.reshape(x, [tf.shape(x)[0], -1, x.shape[-1]])
    return tf.unstack(tf.transpose(x, [2, 0, 1]))


def from_planes(planes: list[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """C planes [B, H * W] back to the shape of `like`, [B, H, W, C]."""
    x = tf.reshape(tf.stack(planes, axis=-1), tf.shape(like))
    return tf.ensure_shape(x, like.shape)
