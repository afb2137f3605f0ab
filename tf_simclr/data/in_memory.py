"""Images of any sizes, decoded once and held in memory."""

from __future__ import annotations

import copy
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
from tf_simclr.data.headers import image_size
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
      already and, if none is to be reduced, where they take more or one of them cannot be read
      (whoever loads that one will say so).

    Raises:
      UserError: they may take so many bytes, but there is no such memory; images that are to be
        reduced take more even so, or cannot be read.
    """
    if source.image_shape and shorter_side >= min(source.image_shape):
        shorter_side = 0
    decoded_already = source.images is not None or source.decoded is not None
    if not shorter_side and (decoded_already or most_bytes <= 0):
        return source
    try:
        decoded = _decode(source, most_bytes, shorter_side)
    except READ_ERRORS as error:
        if not shorter_side:
            return source
        raise explain_bad_images(source, error) from error
    except _Unreadable as error:
        if not shorter_side:
            return source
        names = find_bad_images(source) or [str(error)]
        raise bad_images_error(names, source.num_examples) from error
    except _TooLarge as error:
        if not shorter_side:
            return source
        raise UserError(
            f"reduced to a shorter side of {shorter_side} pixels the images take "
            f"{error.args[0] / 2**30:.1f} GiB, where {most_bytes / 2**30:.1f} may be held: pass "
            "--cache=on if memory has room for them, else a smaller --cache_side or none."
        ) from error
    held = copy.copy(source)
    if source.image_shape:
        held.hold(decoded.as_array())
    else:
        held.decoded = decoded.finish()
    return held


class _Unreadable(Exception):
    """An image that cannot be decoded; its name."""


class _TooLarge(Exception):
    """More bytes than may be held; how many."""


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

    def as_array(self) -> np.ndarray:
        """uint8 [N, h, w, C], of images of one shape; not copied."""
        return self._bytes.reshape([len(self._shapes), *self._shapes[0]])

    def finish(self) -> _Decoded:
        """Makes tensors of the arrays; the bytes are shared, not copied."""
        with tf.device("CPU:0"):
            self._starts, self._shapes = tf.constant(self._starts), tf.constant(self._shapes)
            self._bytes = tf.experimental.dlpack.from_dlpack(self._bytes.__dlpack__())
        return self

    def take(self, rows: np.ndarray) -> _Decoded:
        """Some of the images, int64 [n]; once finished."""
        part = copy.copy(self)
        with tf.device("CPU:0"):
            part._starts, part._shapes = (
                tf.gather(values, rows) for values in (self._starts, self._shapes)
            )
        return part

    @property
    def shapes(self) -> np.ndarray:
        """int64 [N, 3]; once finished."""
        return self._shapes.numpy()

    @property
    def nbytes(self) -> int:
        """Of all pixels; once finished."""
        return int(self.shapes.prod(axis=1).sum())

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """uint8 [h, w, C]; for graphs."""
        shape = tf.gather(self._shapes, index)
        piece = tf.slice(self._bytes, [tf.gather(self._starts, index)], [tf.reduce_prod(shape)])
        return tf.reshape(piece, shape)


def _decode(source, most_bytes, shorter_side):
    """A `_Decoded`."""
    count = source.num_examples
    some = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(np.int64))
    # The sizes of all are read only where a few say that there may be room.
    estimate = _bytes_of(_reduced_shapes(_shapes(source, some), shorter_side)).mean() * count
    if estimate > 2 * most_bytes:
        raise _TooLarge(estimate)
    originals = _shapes(source, np.arange(count))
    shapes = _reduced_shapes(originals, shorter_side)
    size = _bytes_of(shapes).sum()
    if size > most_bytes:
        raise _TooLarge(size)
    try:
        decoded = _Decoded(shapes)
    except MemoryError as error:
        instead = "take a smaller --cache_side" if shorter_side else "leave out --cache=on"
        raise UserError(
            f"the {count} images take {size / 2**30:.1f} GiB in memory, which has no room for "
            f"them: {instead}."
        ) from error

    def load(index, shape):
        image = source.load(index)
        return index, tf.shape(image), _reduce(image, shape)

    images = tf.data.Dataset.from_tensor_slices((np.arange(count), shapes))
    images = images.map(load, tf.data.AUTOTUNE)
    for index, shape, image in tqdm(images, "Decoding into memory", count, mininterval=5, delay=5):
        if not np.array_equal(shape, originals[index]):
            raise _Unreadable(source.describe(int(index)))  # Its header lies.
        decoded.put(index, image.numpy())
    return decoded


def _reduced_shapes(shapes, shorter_side):
    """int64 [n, 3]: what becomes of shapes whose shorter side has more pixels."""
    if not shorter_side:
        return shapes
    sides = shapes[:, :2]
    scale = np.minimum(1.0, shorter_side / sides.min(axis=1, keepdims=True))
    return np.concatenate([np.round(sides * scale).astype(np.int64), shapes[:, 2:]], axis=1)


def _reduce(image, shape):
    """An image at the size of `shape`, which is no larger."""

    def resized():
        x = tf.image.resize(image, tf.cast(shape[:2], tf.int32), "area")
        return tf.cast(tf.round(x), tf.uint8)

    same = tf.reduce_all(tf.shape(image, tf.int64) == shape)
    return tf.cond(same, lambda: image, resized)


def _bytes_of(shapes):
    """float64 [n]: a damaged header can ask for more than an integer holds."""
    return shapes.astype(np.float64).prod(axis=1)


def _shapes(source, indices):
    """int64 [n, 3], by the headers of what is not decoded yet."""
    if source.image_shape:
        return np.full([len(indices), 3], [*source.image_shape, source.channels], np.int64)
    if source.decoded is not None:
        return source.decoded.shapes[indices]
    sizes = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda index: image_size(source.encoded(index)), tf.data.AUTOTUNE
    )
    sizes = np.stack(list(sizes.as_numpy_iterator()))
    shapes = np.concatenate([sizes, np.full([len(sizes), 1], source.channels)], axis=1)
    pixels = _bytes_of(sizes)
    unreadable = (pixels == 0) | (pixels > MAX_PIXELS)  # As `decode` has it.
    if unreadable.any():
        raise _Unreadable(source.describe(int(indices[unreadable.argmax()])))
    return shapes
