"""Images of any sizes, decoded once and held in memory."""

from __future__ import annotations

import copy
import math

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data.bad_images import READ_ERRORS
from tf_simclr.data.decoding import MAX_PIXELS, image_size
from tf_simclr.data.image_source import Source
from tf_simclr.errors import UserError

_ALIGNED = 64  # Bytes: what begins so, TensorFlow takes over without a copy.
_SAMPLE = 64


def in_memory(source: Source, most_bytes: float = math.inf, shorter_side: int = 0) -> Source:
    """Decodes every image once, so that training need not do it in every epoch.

    Args:
      source: any.
      most_bytes: how much the decoded images may take, which is known before they are decoded.
      shorter_side: pixels; images with more are reduced to so many, by the mean over each pixel's
        area, and keep their proportions. 0: all stay as they are.

    Returns:
      A source of the same images and fingerprint, in memory; `source` itself where they are so
      already, take more, or one of them cannot be read (whoever loads that one will say so).

    Raises:
      UserError: they may take so many bytes, but there is no such memory; images that are to be
        reduced take more than `most_bytes` even so.
    """
    reduces_all = source.image_shape and 0 < shorter_side < min(source.image_shape)
    if source.images is not None and not reduces_all or most_bytes <= 0 and not shorter_side:
        return source
    try:
        decoded = _decode(source, most_bytes, shorter_side)
    except READ_ERRORS:
        return source
    if decoded is None:
        return source
    held = copy.copy(source)
    held.decoded = decoded
    if reduces_all:
        held.images = held.image_shape = None  # They are no longer so.
    return held


class _Decoded:
    """Images one behind another in one tensor."""

    def __init__(self, shapes: np.ndarray):
        """shapes: int64 [N, 3]."""
        self._starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        buffer = np.empty(self._starts[-1] + _ALIGNED, np.uint8)
        begin = -buffer.ctypes.data % _ALIGNED
        self._bytes = buffer[begin : begin + self._starts[-1]]
        self._shapes = shapes

    def put(self, index: int, image: np.ndarray) -> None:
        start = self._starts[index]
        self._bytes[start : start + image.size] = image.ravel()

    def finish(self) -> None:
        """Makes tensors of the arrays; the bytes are shared, not copied."""
        with tf.device("CPU:0"):
            self._starts, self._shapes = tf.constant(self._starts), tf.constant(self._shapes)
            self._bytes = tf.experimental.dlpack.from_dlpack(self._bytes.__dlpack__())

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """uint8 [h, w, C]; for graphs."""
        shape = tf.gather(self._shapes, index)
        piece = tf.slice(self._bytes, [tf.gather(self._starts, index)], [tf.reduce_prod(shape)])
        return tf.reshape(piece, shape)


def _decode(source, most_bytes, shorter_side):
    """A `_Decoded`; None where it would take more, or an image cannot be read."""
    count = source.num_examples
    some = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(np.int64))
    # The sizes of all are read only where a few say that there may be room.
    estimate = _bytes_of(_reduced(_shapes(source, some), shorter_side)).mean() * count
    if estimate > 2 * most_bytes:
        return _no_room(estimate, most_bytes, shorter_side)
    originals = _shapes(source, np.arange(count))
    sizes = _bytes_of(originals)
    if ((sizes == 0) | (sizes > MAX_PIXELS * source.channels)).any():  # As `decode` has it.
        return None
    shapes = _reduced(originals, shorter_side)
    sizes = _bytes_of(shapes)
    if sizes.sum() > most_bytes:
        return _no_room(sizes.sum(), most_bytes, shorter_side)
    try:
        decoded = _Decoded(shapes)
    except MemoryError as error:
        raise UserError(
            f"the {count} images take {sizes.sum() / 2**30:.1f} GiB when decoded, which memory has "
            "no room for: leave out --cache=on."
        ) from error

    def load(index, shape):
        image = source.load(index)
        return index, tf.shape(image), _reduce(image, shape[:2]) if shorter_side else image

    images = tf.data.Dataset.from_tensor_slices((np.arange(count), shapes))
    images = images.map(load, tf.data.AUTOTUNE)
    for index, shape, image in tqdm(images, "Decoding into memory", count, mininterval=5, delay=5):
        if not np.array_equal(shape, originals[index]):
            return None  # Its header lies.
        decoded.put(index, image.numpy())
    decoded.finish()
    return decoded


def _no_room(size, most_bytes, shorter_side):
    if shorter_side:
        raise UserError(
            f"reduced to {shorter_side} pixels the images still take {size / 2**30:.1f} GiB, where "
            f"{most_bytes / 2**30:.1f} may be held: pass --cache=on, or a smaller --cache_side."
        )


def _reduced(shapes, shorter_side):
    """int64 [n, 3]: what becomes of shapes whose shorter side has more pixels."""
    if not shorter_side:
        return shapes
    sides = shapes[:, :2]
    scale = np.minimum(1.0, shorter_side / np.maximum(sides.min(axis=1, keepdims=True), 1))
    sides = np.round(sides * scale).astype(np.int64)
    return np.concatenate([sides, shapes[:, 2:]], axis=1)


def _reduce(image, size):
    def resized():
        x = tf.image.resize(image, tf.cast(size, tf.int32), "area")
        return tf.cast(tf.round(x), tf.uint8)

    smaller = tf.reduce_any(size < tf.shape(image, tf.int64)[:2])
    return tf.cond(smaller, resized, lambda: image)


def _bytes_of(shapes):
    """float64 [n]: a damaged header can ask for more than an integer holds."""
    return shapes.astype(np.float64).prod(axis=1)


def _shapes(source, indices):
    """int64 [n, 3], by the headers."""
    if source.image_shape:
        return np.tile(
            np.array([*source.image_shape, source.channels], np.int64), (len(indices), 1)
        )
    sizes = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda index: image_size(source.encoded(index)), tf.data.AUTOTUNE
    )
    sizes = np.stack(list(sizes.as_numpy_iterator()))
    return np.concatenate([sizes, np.full([len(sizes), 1], source.channels)], axis=1)
