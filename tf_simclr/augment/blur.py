"""Gaussian blur with a sigma of each image's own."""

from __future__ import annotations

import tensorflow as tf


def gaussian_blur(x, sigma):
    """Separable Gaussian blur of [B, H, W, C] images by [B] sigmas in pixels; 0 is the identity.

    The kernel has 2 r + 1 taps, r = (H // 10) // 2 (paper, appendix A: a tenth of the image), and
    the border is padded with zeros, as the reference. Differs from google-research/simclr
    (tf2/data_util.py): sigma per image, as the paper says, not one for the batch.
    """
    if blur_radius(x.shape[1]) == 0:
        return x
    x = blur_stack(tf.transpose(x, [0, 3, 1, 2]), sigma)
    return tf.transpose(x, [0, 2, 3, 1])


def blur_stack(x, sigma):
    """`gaussian_blur` on [B, C, H, W]: a product with a banded matrix along each axis."""
    radius = blur_radius(x.shape[2])
    rows = _blur_matrix(x.shape[2], radius, sigma)[:, tf.newaxis]
    columns = _blur_matrix(x.shape[3], radius, sigma)[:, tf.newaxis]
    return tf.matmul(tf.matmul(rows, x), columns)  # The matrix is symmetric.


def blur_radius(height: int) -> int:
    """Taps to either side, from the image's height in pixels."""
    return (height // 10) // 2


def _blur_matrix(extent: int, radius: int, sigma):
    """[B, extent, extent] band of Gaussian weights; the identity where sigma is 0."""
    position = tf.range(extent)
    offset = position[tf.newaxis, :] - position[:, tf.newaxis]
    inside = tf.cast(tf.abs(offset) <= radius, tf.float32)
    blurred = sigma > 0.0
    precision = tf.where(blurred, 0.5 / tf.square(tf.where(blurred, sigma, 1.0)), 0.0)
    taps = tf.range(-radius, radius + 1, dtype=tf.float32)
    total = tf.reduce_sum(tf.exp(-tf.square(taps) * precision[:, tf.newaxis]), axis=1)
    squared = tf.square(tf.cast(offset, tf.float32))
    band = inside * tf.exp(-squared * precision[:, tf.newaxis, tf.newaxis])
    band /= total[:, tf.newaxis, tf.newaxis]
    return tf.where(blurred[:, tf.newaxis, tf.newaxis], band, tf.eye(extent))
