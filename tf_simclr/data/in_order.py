"""Batches of images in order, each once, as evaluation sees them: cropped at the centre."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_simclr import augment

_BATCHES_AHEAD = 2  # Of `parts_dataset`: 256 images of 224 pixels take 150 MB.


def eval_dataset(source, *, batch_size: int, image_size: int) -> tf.data.Dataset:
    """Every image once, in order: float32 [<= B, H, W, C] in [0, 1], the evaluation view."""
    shape = [image_size, image_size, source.channels]

    def example(index):
        return tf.ensure_shape(eval_view(source.load(index), image_size), shape)

    dataset = tf.data.Dataset.range(source.num_examples)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def parts_dataset(
    source,
    parts: Sequence[int],
    *,
    rows_per_part: int,
    batch_size: int,
    image_size: int,
    skip_bad_images: bool = False,
) -> tf.data.Dataset:
    """The evaluation views of some parts of a source, in order; no batch is of two parts.

    Args:
      source: the images; part p is those from p * rows_per_part on.
      parts: the numbers of the parts, increasing.
      rows_per_part: images in a part; the last part may have fewer.
      batch_size: images in a batch; the last batch of a part may have fewer.
      image_size: side of the views in pixels.
      skip_bad_images: leave out images that cannot be read, instead of failing.

    Returns:
      A dataset of (images' numbers int64 [b], their sizes (height, width) int32 [b, 2], views
      float32 [b, H, W, C] in [0, 1]).
    """
    shape = [image_size, image_size, source.channels]
    known_bad = source.store.unreadable if skip_bad_images else ()  # Some are huge: never opened.

    def example(index):
        image = source.load(index)
        return index, tf.shape(image)[:2], tf.ensure_shape(eval_view(image, image_size), shape)

    def together(index):  # Images in one array: far fewer calls.
        images = source.load(index)
        sizes = tf.tile([tf.shape(images)[1:3]], [tf.shape(index)[0], 1])
        return index, sizes, tf.ensure_shape(eval_view(images, image_size), [None, *shape])

    def of_part(number):
        first = number * rows_per_part
        rows = tf.data.Dataset.range(first, tf.minimum(first + rows_per_part, source.num_examples))
        if source.images is not None:
            return rows.batch(batch_size).map(together, num_parallel_calls=tf.data.AUTOTUNE)
        if len(known_bad):
            rows = rows.filter(lambda index: tf.reduce_all(index != known_bad))
        images = rows.map(example, num_parallel_calls=tf.data.AUTOTUNE)
        if skip_bad_images:
            images = images.ignore_errors()
        return images.batch(batch_size)

    numbers = tf.data.Dataset.from_tensor_slices(np.asarray(parts, np.int64))
    return numbers.flat_map(of_part).prefetch(_BATCHES_AHEAD)


def eval_view(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """The view of evaluation: the centre crop, resized; float32 [(n,) size, size, C] in [0, 1]."""
    proportion = augment.eval_crop_proportion(image_size)
    return augment.center_crop_resize(image, image_size, proportion)
