"""Decodes all images of a source once, into memory."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data.bad_images import (
    READ_ERRORS,
    bad_images_error,
    explain_bad_images,
    find_bad_images,
)
from tf_simclr.data.decoding import MAX_PIXELS
from tf_simclr.data.image_source import Source
from tf_simclr.data.stores import ArrayStore, RaggedStore, Store
from tf_simclr.errors import UserError

_ALIGNED = 64  # Bytes. TensorFlow shares memory with this alignment; other memory it copies.
_SAMPLE = 64
_BATCH = 256


def in_memory(source: Source, most_bytes: float = math.inf, shorter_side: int = 0) -> Source:
    """Decodes every image once, so that training need not do it in every epoch.

    Args:
      source: any.
      most_bytes: how much memory the decoded images may take. Their size is known before decoding.
      shorter_side: pixels. Images with a longer shorter side are reduced to it, by the mean over
        each pixel's area, and keep their proportions. 0: no image is reduced.

    Returns:
      A source with the same images and fingerprint, in memory. With `shorter_side` 0, `source`
      itself if it is in memory already, if the images take more than `most_bytes`, or if one of
      them cannot be read (loading that image reports the error).

    Raises:
      UserError: there is not enough memory; or, with `shorter_side`, the reduced images take more
        than `most_bytes`, or an image cannot be read.
    """
    if source.image_shape and shorter_side >= min(source.image_shape):
        shorter_side = 0
    if not shorter_side and (source.store.nbytes or most_bytes <= 0):
        return source
    try:
        return source.with_store(decoded_store(source.store, most_bytes, shorter_side))
    except READ_ERRORS as error:
        if not shorter_side:
            return source
        raise explain_bad_images(source, error) from error
    except Unreadable as error:
        if not shorter_side:
            return source
        names = find_bad_images(source) or [str(error)]
        raise bad_images_error(names, source.num_examples) from error
    except TooLarge as error:
        if not shorter_side:
            return source
        raise UserError(
            f"reduced to a shorter side of {shorter_side} pixels the images take "
            f"{error.args[0] / 2**30:.1f} GiB; at most {most_bytes / 2**30:.1f} GiB may be held. "
            "If there is enough memory pass --cache=on, otherwise pass a smaller --cache_side or "
            "leave it out."
        ) from error


class Unreadable(Exception):
    """An image cannot be decoded; the argument is its name."""


class TooLarge(Exception):
    """The images take more memory than allowed; the argument is how many bytes."""


def decoded_store(store: Store, most_bytes: float = math.inf, shorter_side: int = 0) -> Store:
    """Decodes every image of a store into memory.

    Args:
      store: any.
      most_bytes, shorter_side: as `in_memory`.

    Returns:
      An `ArrayStore` if the images are known to have one shape, else a `RaggedStore`.

    Raises:
      TooLarge: the images take more than `most_bytes`; nothing was decoded.
      Unreadable: a header has no size, or not that of the image.
      tf.errors.OpError: an image cannot be read.
      UserError: there is not enough memory.
    """
    count = store.num_examples
    some = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(np.int64))
    # Reads a few headers first, and all only if those suggest that there is enough memory.
    estimate = _bytes_of(_reduced(_shapes(store, some), shorter_side)).mean() * count
    if estimate > 2 * most_bytes:
        raise TooLarge(estimate)
    originals = _shapes(store, np.arange(count))
    shapes = _reduced(originals, shorter_side)
    size = _bytes_of(shapes).sum()
    if size > most_bytes:
        raise TooLarge(size)
    try:
        pixels = _aligned(int(size))
    except MemoryError as error:
        instead = "pass a smaller --cache_side" if shorter_side else "leave out --cache=on"
        raise UserError(
            f"the {count} images take {size / 2**30:.1f} GiB and there is not enough memory for "
            f"them: {instead}."
        ) from error
    _fill(pixels, store, originals, shapes)
    if store.image_shape:
        return ArrayStore(pixels.reshape([count, *shapes[0]]), store.describe)
    starts = np.cumsum(shapes.prod(axis=1)) - shapes.prod(axis=1)
    with tf.device("CPU:0"):
        shared = tf.experimental.dlpack.from_dlpack(pixels.__dlpack__())
    return RaggedStore(shared, starts, shapes, store.describe)


def _fill(pixels, store, originals, shapes):
    """Writes the images one after another into `pixels`, uint8 [bytes]."""
    images = tf.data.Dataset.zip((store.in_order(), tf.data.Dataset.from_tensor_slices(shapes)))
    images = images.map(
        lambda image, shape: (tf.shape(image, tf.int64), _resized(image, shape)), tf.data.AUTOTUNE
    )
    batch = _BATCH if store.image_shape else 1
    if batch > 1:  # The Python loop below then runs once per batch.
        images = images.batch(batch).prefetch(tf.data.AUTOTUNE)
    done = end = 0
    with tqdm(desc="Decoding into memory", total=len(shapes), mininterval=5, delay=5) as progress:
        for shape, image in images:
            count = min(batch, len(shapes) - done)
            if not np.array_equal(np.reshape(shape, [count, 3]), originals[done : done + count]):
                raise Unreadable(store.describe(done))  # Its header is wrong.
            start, end = end, end + int(tf.size(image))
            pixels[start:end] = image.numpy().ravel()
            done += count
            progress.update(count)


def _aligned(size):
    """An aligned, uninitialised array, uint8 [size]."""
    buffer = np.empty(size + _ALIGNED, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNED
    return buffer[begin : begin + size]


def _reduced(shapes, shorter_side):
    """The shapes, int64 [n, 3], with longer shorter sides reduced to `shorter_side`."""
    if not shorter_side:
        return shapes
    sides = shapes[:, :2]
    scale = np.minimum(1.0, shorter_side / sides.min(axis=1, keepdims=True))
    return np.concatenate([np.round(sides * scale).astype(np.int64), shapes[:, 2:]], axis=1)


def _resized(image, shape):
    """Reduces an image to `shape`, which is not larger."""

    def resized():
        x = tf.image.resize(image, tf.cast(shape[:2], tf.int32), "area")
        return tf.cast(tf.round(x), tf.uint8)

    same = tf.reduce_all(tf.shape(image, tf.int64) == shape)
    return tf.cond(same, lambda: image, resized)


def _bytes_of(shapes):
    """Bytes per image, float64 [n], as a damaged header can exceed the range of int64."""
    return shapes.astype(np.float64).prod(axis=1)


def _shapes(store, rows):
    """The shapes of images, int64 [n, 3], from their headers."""
    sizes = store.sizes(rows)
    pixels = _bytes_of(sizes)
    unreadable = (pixels == 0) | (pixels > MAX_PIXELS)  # The limits of `decode`.
    if unreadable.any():
        raise Unreadable(store.describe(int(rows[unreadable.argmax()])))
    return np.concatenate([sizes, np.full([len(sizes), 1], store.channels)], axis=1)
