"""From the pipeline's batch to the views that the encoder sees."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.ops import control_flow_util  # The only way to detect XLA while tracing.

from tf_simclr import native
from tf_simclr.augment.blur import blur_radius, blur_stack
from tf_simclr.augment.color import JITTER_ORDERS, jitter_planes, luma

_JITTER = ("brightness", "contrast", "saturation", "hue")
_AT_REST = dict(zip(_JITTER, (1.0, 1.0, 1.0, 0.0)), order=0, grayscale=False, sigma=0.0)


def finish_views(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Colour jitter, grayscale and blur, with the parameters that the pipeline drew.

    Accelerators, and XLA on any device, treat the batch as a whole. A CPU goes from view to view,
    each of which fits its cache, and does only what was drawn for it, by a kernel in C where there
    is a compiler (`native`). XLA does not know the kernel: a `tf.function` of this that has run
    without XLA cannot be compiled by it afterwards, as TensorFlow does not trace it again.

    Args:
      batch: an element of `two_view_dataset`: "images" uint8 [B, 2, H, W, C], cropped and
        flipped, and the drawn parameters, each [B, 2]; operations whose parameters are absent are
        off.

    Returns:
      [2B, H, W, C] float32 in [0, 1]: all first views, then all second views.
    """
    kernels = None if _has_accelerator() or _is_for_xla() else native.kernels()
    views = _finish_in_turn(kernels, batch) if kernels else _finish_together(batch)
    pairs, _, *shape = batch["images"].shape
    return tf.ensure_shape(views, [pairs and 2 * pairs, *shape])


def _has_accelerator():
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _is_for_xla():
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def _finish_in_turn(kernels, batch):
    drawn = _all_drawn(batch)
    grayscale = tf.cast(drawn["grayscale"], tf.int32)[..., tf.newaxis]
    order = tf.gather(tf.constant(JITTER_ORDERS, tf.int32), drawn["order"])
    return kernels.finish_views(
        images=batch["images"],
        factors=tf.stack([drawn[name] for name in (*_JITTER, "sigma")], axis=-1),
        choices=tf.concat([grayscale, order], axis=-1),
    )


def _all_drawn(batch):
    """What was drawn for the views, [B, 2], and for what was not, what leaves them as they are."""
    shape = tf.shape(batch["images"])[:2]
    return {
        name: batch[name] if name in batch else tf.fill(shape, rest)
        for name, rest in _AT_REST.items()
    }


def _finish_together(batch):
    def in_order(value):
        return tf.concat(tf.unstack(value, axis=1), axis=0)  # First views, then second views.

    height, width, channels = batch["images"].shape[2:]
    drawn = {name: in_order(value) for name, value in _all_drawn(batch).items()}
    # Channel planes, and on uint8, which is less to move.
    views = tf.reshape(in_order(batch["images"]), [-1, height * width, channels])
    planes = tf.unstack(tf.transpose(views, [2, 0, 1]))
    planes = [tf.cast(plane, tf.float32) * (1.0 / 255.0) for plane in planes]
    if batch.keys() & set(_JITTER):
        planes = jitter_planes(planes, *(drawn[name] for name in _JITTER), drawn["order"])
    if "grayscale" in batch:
        grey, chosen = luma(planes), drawn["grayscale"][:, tf.newaxis]
        planes = [tf.where(chosen, grey, plane) for plane in planes]
    x = tf.reshape(tf.stack(planes, axis=1), [-1, channels, height, width])
    if "sigma" in batch and blur_radius(height):
        x = blur_stack(x, drawn["sigma"])
    return tf.transpose(x, [0, 2, 3, 1])
