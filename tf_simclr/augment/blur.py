"""Gaussian blur with one sigma per image."""

from __future__ import annotations

import tensorflow as tf


def gaussian_blur(x, sigma):
    """Separable Gaussian blur of [B, H, W, C] images by [B] sigmas in pixels; 0 is the identity.

    The kernel has 2 r + 1 taps, r = (H // 10) // 2 (paper, appendix A: a tenth of the image), and
    the border is padded with zeros, as in the reference. Differs from google-research/simclr
    (tf2/data_util.py) in that each image has its own sigma, as in the paper.
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
    """Number of taps on either side of the centre, from the image's height in pixels."""
    return (height // 10) // 2


def _blur_matrix(extent: int, radius: int, sigma):
    """[B, extent, extent] banded matrix of Gaussian weights; the identity where sigma is 0."""
    position = tf.range(extent)
    distance = tf.abs(position[tf.newaxis, :] - position[:, tf.newaxis])
    taps = tf.pad(_taps(radius, sigma), [[0, 0], [0, 1]])  # 0 beyond the radius.
    band = tf.gather(taps, tf.minimum(distance, radius + 1), axis=1)
    return tf.where(sigma[:, tf.newaxis, tf.newaxis] > 0.0, band, tf.eye(extent))


def _taps(radius: int, sigma):
    """[..., radius + 1] weights at distances 0, 1, ...; with both sides they sum to 1."""
    sigma = tf.where(sigma > 0.0, sigma, 1.0)[..., tf.newaxis]
    taps = tf.exp(-0.5 * tf.square(tf.range(radius + 1, dtype=tf.float32) / sigma))
    return taps / (2.0 * tf.reduce_sum(taps, axis=-1, keepdims=True) - taps[..., :1])
