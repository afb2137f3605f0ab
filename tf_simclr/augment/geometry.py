"""Cropping and resizing: batched for images of one size, and the evaluation view for any size."""

from __future__ import annotations

import tensorflow as tf


def resize_crop(images, boxes, flip, size: int):
    """Crops one box from each image, resizes it bicubically and flips it if `flip`.

    The same as `tf.image.resize(crop, [size, size], "bicubic")` (half-pixel centres, no
    antialiasing, as in the reference), but for a batch of images of the same size. Resizing is
    separable and linear, so it is a product with a [size, H] and a [size, W] matrix.

    Args:
      images: [B, H, W, C] uint8 or float.
      boxes: [B, 4] (top, left, height, width) in pixels, inside the image.
      flip: [B] bool, whether to mirror left to right.
      size: side of the result in pixels.

    Returns:
      [B, size, size, C] float32 in the units of `images`; bicubic overshoot is not clipped.
    """
    boxes = tf.cast(boxes, tf.float32)
    rows = bicubic_matrix(boxes[:, 0], boxes[:, 2], images.shape[1], size)
    columns = bicubic_matrix(boxes[:, 1], boxes[:, 3], images.shape[2], size)
    columns = tf.where(flip[:, tf.newaxis, tf.newaxis], columns[:, ::-1], columns)
    x = tf.cast(images, tf.float32)
    batch, height, width, channels = tf.unstack(tf.shape(x))
    x = tf.matmul(rows, tf.reshape(x, [batch, height, width * channels]))
    x = tf.reshape(x, [batch, size, width, channels])
    return tf.ensure_shape(
        tf.einsum("bvw,bhwc->bhvc", columns, x), [None, size, size, images.shape[3]]
    )


def center_crop_resize(images, size: int, crop_proportion: float = 0.875):
    """The evaluation view: the central square, `crop_proportion` of the shorter side, resized.

    Differs from google-research/simclr (tf2/data_util.py): it always resizes, even at 32 pixels and
    below, so that images of any size can be evaluated (see issue #163 there).

    Args:
      images: [H, W, C] or [B, H, W, C], uint8 in [0, 255] or float in [0, 1], any size.
      size: side of the result in pixels.
      crop_proportion: share of the shorter side to keep, in (0, 1].

    Returns:
      float32 in [0, 1], of the same rank; resized bicubically.
    """
    scale = 1.0 / 255.0 if images.dtype == tf.uint8 else 1.0
    shape = tf.shape(images)
    height, width = shape[-3], shape[-2]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(tf.round(shorter * crop_proportion), tf.int32), 1)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = images[..., top : top + side, left : left + side, :]
    x = tf.image.resize(tf.cast(crop, tf.float32) * scale, [size, size], "bicubic")
    return tf.clip_by_value(x, 0.0, 1.0)


def eval_crop_proportion(image_size: int) -> float:
    """0.875, or 1 for images of 32 pixels and below (as in the reference)."""
    return 0.875 if image_size > 32 else 1.0


def bicubic_matrix(start, length, extent: int, size: int):
    """Weights that resize [start, start + length) of an axis to `size` samples.

    Keys' cubic with a = -1/2 at half-pixel centres; taps outside the crop are dropped and the
    others renormalised, as `tf.image.resize` does.

    Args:
      start, length: [B] float32 pixels.
      extent: length of the axis in pixels.
      size: number of samples.

    Returns:
      [B, size, extent] float32; each row sums to 1.
    """
    start, length = start[:, tf.newaxis], length[:, tf.newaxis]
    centre = (tf.range(size, dtype=tf.float32) + 0.5) * length / size - 0.5
    centre = (start + centre)[:, :, tf.newaxis]
    pixel = tf.range(extent, dtype=tf.float32)[tf.newaxis, tf.newaxis, :]
    d = tf.abs(pixel - centre)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    weight = tf.where(d < 1.0, near, tf.where(d < 2.0, far, 0.0))
    start, length = start[:, :, tf.newaxis], length[:, :, tf.newaxis]
    weight = tf.where((pixel >= start) & (pixel < start + length), weight, 0.0)
    return weight / tf.reduce_sum(weight, axis=2, keepdims=True)
