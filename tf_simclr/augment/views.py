"""From the pipeline's batch to the views that the encoder sees."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.augment.blur import blur_one, blur_radius, blur_stack
from tf_simclr.augment.color import jitter_one, jitter_planes, luma


def finish_views(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Flip, colour jitter, grayscale and blur, with the parameters that the pipeline drew.

    Accelerators treat the batch as a whole; a CPU goes from view to view, each of which fits its
    cache, and does only what was drawn for it, compiled by XLA (benchmarks/pipeline_stages.py).

    Args:
      batch: an element of `two_view_dataset`: "images" uint8 [B, 2, H, W, C], cropped, and the
        drawn parameters, each [B, 2]; operations whose parameters are absent are off, or done.

    Returns:
      [2B, H, W, C] float32 in [0, 1]: all first views, then all second views.
    """
    shape = [None, *batch["images"].shape[2:]]
    finish = _finish_together if _has_accelerator() else _finish_in_turn
    return tf.ensure_shape(finish(batch), shape)


def _has_accelerator():
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _views_and_parameters(batch):
    """First views, then second views: (uint8 [2B, H, W, C], parameters [2B])."""
    images = batch["images"]
    views = tf.reshape(tf.transpose(images, [1, 0, 2, 3, 4]), [-1, *images.shape[2:]])
    return views, {k: tf.reshape(tf.transpose(v), [-1]) for k, v in batch.items() if k != "images"}


def _finish_together(batch):
    views, drawn = _views_and_parameters(batch)
    height, width, channels = views.shape[1:]
    if "flip" in drawn:
        mirrored = drawn["flip"][:, tf.newaxis, tf.newaxis, tf.newaxis]
        views = tf.where(mirrored, views[:, :, ::-1], views)
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


@tf.function(jit_compile=True)
def _finish_in_turn(batch):
    return _in_turn(_finish_one, batch)


def _in_turn(finish, batch):
    places = tf.range(2 * tf.shape(batch["images"])[0])
    return tf.map_fn(
        lambda place: finish(*_view_at(place, batch)), places, fn_output_signature=tf.float32
    )


def _view_at(place, batch):
    """One view and its parameters, at its place among all first, then all second views."""
    pairs = tf.shape(batch["images"])[0]

    def part(value):
        # Not value[pair, view]: XLA then takes the pixels one by one.
        inner = value.shape[2:]
        start = [place % pairs, place // pairs] + [0] * len(inner)
        return tf.reshape(tf.slice(value, start, [1, 1, *inner]), inner)

    drawn = {name: part(value) for name, value in batch.items()}
    return drawn.pop("images"), drawn


def _finish_one(view, drawn):
    def untouched():
        return tf.cast(view, tf.float32) * (1.0 / 255.0)

    # XLA does not split over cores what is in a branch: for one view that costs more than it saves.
    changes = _changes(drawn)
    return tf.cond(changes, lambda: _change_one(view, drawn), untouched) if drawn else untouched()


def _changes(drawn):
    """Whether anything drawn for a view changes it."""
    at_rest = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "sigma": 0.0}
    changes = [drawn[name] != rest for name, rest in at_rest.items() if name in drawn]
    changes += [drawn[name] for name in ("flip", "grayscale") if name in drawn]
    return tf.reduce_any(changes)


def _change_one(view, drawn):
    height, width, channels = view.shape
    if "flip" in drawn:
        view = tf.cond(drawn["flip"], lambda: view[:, ::-1], lambda: view)
    x = tf.cast(tf.transpose(view, [2, 0, 1]), tf.float32) * (1.0 / 255.0)
    x = tf.reshape(x, [channels, height * width])
    if "brightness" in drawn:
        names = ("brightness", "contrast", "saturation", "hue", "order")
        parameters = [drawn.get(name) for name in names]
        jittered = _changes({name: drawn[name] for name in names[:4] if name in drawn})
        x = tf.cond(jittered, lambda: jitter_one(x, *parameters), lambda: x)
    if "grayscale" in drawn:
        x = tf.cond(
            drawn["grayscale"], lambda: tf.stack([luma(tf.unstack(x))] * channels), lambda: x
        )
    x = tf.reshape(x, [channels, height, width])
    if "sigma" in drawn and blur_radius(height):
        x = blur_one(x, drawn["sigma"])
    return tf.transpose(x, [1, 2, 0])
