"""From the pipeline's batch to the views that the encoder sees."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.augment.blur import blur_radius, blur_stack
from tf_simclr.augment.color import jitter_planes, luma


def finish_views(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Colour jitter, grayscale and blur, with the parameters that the pipeline drew.

    Args:
      batch: an element of `two_view_dataset`: "images" uint8 [B, 2, H, W, C], cropped and flipped,
        and the drawn parameters, each [B, 2]; operations whose parameters are absent are off.

    Returns:
      [2B, H, W, C] float32 in [0, 1]: all first views, then all second views.
    """
    images = batch["images"]
    pairs, _, height, width, channels = images.shape
    pairs = tf.shape(images)[0] if pairs is None else pairs
    drawn = {k: tf.reshape(tf.transpose(v), [-1]) for k, v in batch.items() if k != "images"}

    # Channel planes, [B, 2, H, W, C] -> C x [2B, H * W], and on uint8, which is less to move.
    planes = tf.transpose(tf.reshape(images, [pairs, 2, height * width, channels]), [3, 1, 0, 2])
    planes = tf.unstack(tf.reshape(planes, [channels, 2 * pairs, height * width]))
    planes = [tf.cast(plane, tf.float32) * (1.0 / 255.0) for plane in planes]
    if "brightness" in drawn:
        saturation, hue = drawn.get("saturation"), drawn.get("hue")
        planes = jitter_planes(
            planes, drawn["brightness"], drawn["contrast"], saturation, hue, drawn["order"]
        )
    if "grayscale" in drawn:
        grey, chosen = luma(planes), drawn["grayscale"][:, tf.newaxis]
        planes = [tf.where(chosen, grey, plane) for plane in planes]
    x = tf.reshape(tf.stack(planes, axis=1), [2 * pairs, channels, height, width])
    if "sigma" in drawn and blur_radius(height):
        x = blur_stack(x, drawn["sigma"])
    return tf.transpose(x, [0, 2, 3, 1])
