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


def in_memory(source: Source, most_bytes: float = math.inf) -> Source:
    """Decodes every image once, so that training need not do it in every epoch.

    Args:
      source: any.
      most_bytes: how much the decoded images may take, which is known before they are decoded.

    Returns:
      A source of the same images and fingerprint, in memory; `source` itself where they are in
      memory, take more, or one of them cannot be read (whoever loads that one will say so).

    Raises:
      UserError: they may take so many bytes, but there is no such memory.
    """
    if source.images is not None or most_bytes <= 0:
        return source
    try:
        decoded = _decode(source, most_bytes)
    except READ_ERRORS:
        return source
    if decoded is None:
        return source
    held = copy.copy(source)
    held.decoded = decoded
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


def _decode(source, most_bytes):
    """A `_Decoded`; None where it would take more."""
    count = source.num_examples
    some = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(np.int64))
    # The sizes of all are read only where a few say that there may be room.
    if _bytes_of(_shapes(source, some)).mean() * count > 2 * most_bytes:
        return None
    shapes = _shapes(source, np.arange(count))
    sizes = _bytes_of(shapes)
    unreadable = (sizes == 0) | (sizes > MAX_PIXELS * source.channels)  # As `decode` has it.
    if unreadable.any() or sizes.sum() > most_bytes:
        return None
    try:
        decoded = _Decoded(shapes)
    except MemoryError as error:
        raise UserError(
            f"the {count} images take {sizes.sum() / 2**30:.1f} GiB when decoded, which memory has "
            "no room for: leave out --cache=on."
        ) from error
    images = tf.data.Dataset.range(count).map(
        lambda index: (index, source.load(index)), tf.data.AUTOTUNE
    )
    for index, image in tqdm(images, "Decoding into memory", count, mininterval=5, delay=5):
        if not np.array_equal(image.shape, shapes[index]):
            return None  # Its header lies.
        decoded.put(index, image.numpy())
    decoded.finish()
    return decoded


def _bytes_of(shapes):
    """float64 [n]: a damaged header can ask for more than an integer holds."""
    return shapes.astype(np.float64).prod(axis=1)


def _shapes(source, indices):
    """int64 [n, 3], by the headers."""
    sizes = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda index: image_size(source.encoded(index)), tf.data.AUTOTUNE
    )
    sizes = np.stack(list(sizes.as_numpy_iterator()))
    return np.concatenate([sizes, np.full([len(sizes), 1], source.channels)], axis=1)
