"""Turns the pipeline's batch into the views for the encoder."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.ops import control_flow_util  # The only way to detect XLA while tracing.

from tf_simclr import native
from tf_simclr.augment.blur import blur_radius, blur_stack
from tf_simclr.augment.color import JITTER_ORDERS, jitter_planes, luma

_JITTER = ("brightness", "contrast", "saturation", "hue")
_AT_REST = dict(zip(_JITTER, (1.0, 1.0, 1.0, 0.0)), order=0, grayscale=False, sigma=0.0)


def finish_views(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Applies colour jitter, grayscale and blur, with the parameters that the pipeline drew.

    On accelerators, and under XLA on any device, the whole batch is processed at once. On a CPU
    with a C compiler a kernel (`native`) processes one view at a time, which fits the cache, and
    only applies what was drawn for it. XLA does not support the kernel: a `tf.function` that calls
    this and has run without XLA cannot be compiled by XLA later, as TensorFlow does not retrace it.

    Args:
      batch: an element of `two_view_dataset`: "images" uint8 [B, 2, H, W, C], cropped and
        flipped, and the drawn parameters, each [B, 2]. Operations without parameters are off.

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
    """All parameters [B, 2]; those that were not drawn get values that change nothing."""
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
    # Transposes to channel planes while the images are uint8, which moves fewer bytes.
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
