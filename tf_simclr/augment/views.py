"""From the pipeline's batch to the views that the encoder sees."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.ops import control_flow_util  # What else knows of XLA while tracing?

from tf_simclr import native
from tf_simclr.augment.blur import blur_radius, blur_stack
from tf_simclr.augment.color import JITTER_ORDERS, jitter_planes, luma


def finish_views(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Colour jitter, grayscale and blur, with the parameters that the pipeline drew.

    Accelerators, and XLA on any device, treat the batch as a whole. A CPU goes from view to view,
    each of which fits its cache, and does only what was drawn for it, by a kernel in C where there
    is a compiler (`native`).

    Args:
      batch: an element of `two_view_dataset`: "images" uint8 [B, 2, H, W, C], cropped and
        flipped, and the drawn parameters, each [B, 2]; operations whose parameters are absent are
        off.

    Returns:
      [2B, H, W, C] float32 in [0, 1]: all first views, then all second views.
    """
    kernels = None if _has_accelerator() or _is_for_xla() else native.kernels()
    views = _finish_in_turn(kernels, batch) if kernels else _finish_together(batch)
    return tf.ensure_shape(views, [None, *batch["images"].shape[2:]])


def _has_accelerator():
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _is_for_xla():
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def _finish_in_turn(kernels, batch):
    shape = tf.shape(batch["images"])[:2]

    def drawn(name, at_rest):
        return batch[name] if name in batch else tf.fill(shape, at_rest)

    at_rest = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "sigma": 0.0}
    factors = [drawn(name, rest) for name, rest in at_rest.items()]
    grayscale = tf.cast(drawn("grayscale", False), tf.int32)[..., tf.newaxis]
    order = tf.gather(tf.constant(JITTER_ORDERS, tf.int32), drawn("order", 0))
    return kernels.finish_views(
        images=batch["images"],
        factors=tf.stack(factors, axis=-1),
        choices=tf.concat([grayscale, order], axis=-1),
    )


def _views_and_parameters(batch):
    """First views, then second views: (uint8 [2B, H, W, C], parameters [2B])."""
    images = batch["images"]
    views = tf.reshape(tf.transpose(images, [1, 0, 2, 3, 4]), [-1, *images.shape[2:]])
    return views, {k: tf.reshape(tf.transpose(v), [-1]) for k, v in batch.items() if k != "images"}


def _finish_together(batch):
    views, drawn = _views_and_parameters(batch)
    height, width, channels = views.shape[1:]
    # Channel planes, and on uint8, which is less to move.
    planes = tf.transpose(tf.reshape(views, [-1, height * width, channels]), [2, 0, 1])
    planes = [tf.cast(plane, tf.float32) * (1.0 / 255.0) for plane in tf.unstack(planes)]
    if "brightness" in drawn:
        saturation, hue = drawn.get("saturation"), drawn.get("hue")
        planes = jitter_planes(
            planes, drawn["brightness"], drawn["contrast"], saturation, hue, drawn["order"]
        )
    if "grayscale" in drawn:
        grey, chosen = luma(planes), drawn["grayscale"][:, tf.newaxis]
        planes = [tf.where(chosen, grey, plane) for plane in planes]
    x = tf.reshape(tf.stack(planes, axis=1), [-1, channels, height, width])
    if "sigma" in drawn and blur_radius(height):
        x = blur_stack(x, drawn["sigma"])
    return tf.transpose(x, [0, 2, 3, 1])
