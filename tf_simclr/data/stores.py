"""Where the pixels of a source are: in one array, decoded one after another, or in files.

A store is immutable. Each kind answers the same questions, so that nobody else asks which it is.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_simclr.data.decoding import decode
from tf_simclr.data.headers import image_size

_NONE = np.zeros(0, np.int64)


class Store(abc.ABC):
    """A numbered set of images, uint8, read in any order.

    Attributes:
      num_examples: N.
      channels: C of every image.
      image_shape: (H, W) if all images are known to have this size, else None.
      images: uint8 [N, H, W, C] if the store is one array in memory, else None.
      nbytes: how much memory the decoded images take; 0 if they are decoded when loaded.
      unreadable: int64 [n], increasing: images known to be bad without reading them.
      file_sizes: int64 [N] in bytes, 0: unreadable, -1: unknown; None if images are no files.
    """

    num_examples: int
    channels: int
    image_shape: tuple[int, int] | None = None
    images: np.ndarray | None = None
    nbytes: int = 0
    unreadable: np.ndarray = _NONE
    file_sizes: np.ndarray | None = None

    @abc.abstractmethod
    def load(self, index: tf.Tensor) -> tf.Tensor:
        """Returns decoded images; for graphs.

        Args:
          index: int64 scalar; [n] only if the store has an `image_shape`.

        Returns:
          uint8 [h, w, C], or [n, H, W, C].

        Raises:
          tf.errors.OpError: a file is missing or damaged.
        """

    @abc.abstractmethod
    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Height and width of some images, without decoding: int64 [n, 2]; [0, 0] if unknown."""

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """The name of one image for people: its path, if it has one."""

    def names(self, rows: np.ndarray) -> list[str]:
        """What `describe` returns for some images, int64 [n]; faster for files."""
        return [self.describe(int(row)) for row in rows]

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> Store:
        """The store of some images, int64 [n], in that order."""

    def encoded(self, index: tf.Tensor) -> tf.Tensor:
        """The file of one image, a scalar string; for graphs.

        Raises:
          TypeError: the images are decoded in memory.
        """
        raise TypeError("the images are decoded in memory, and have no files.")

    def in_order(self) -> tf.data.Dataset:
        """Every image once, in order: uint8 [h, w, C]."""
        return tf.data.Dataset.range(self.num_examples).map(self.load, tf.data.AUTOTUNE)


class ArrayStore(Store):
    """Images of one shape: an array in memory."""

    def __init__(self, images: np.ndarray, names: Callable[[int], str]):
        """Keeps `images`, uint8 [N, H, W, C], without copying; `names` describes each image."""
        self.images = images
        self.num_examples, *shape, self.channels = images.shape
        self.image_shape = tuple(shape)
        self.nbytes = images.nbytes
        self._names = names

    @functools.cached_property
    def _tensor(self):
        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(self.images)

    def load(self, index):
        return tf.gather(self._tensor, index)

    def sizes(self, rows):
        return np.full([len(rows), 2], self.image_shape, np.int64)

    def describe(self, index):
        return self._names(int(index))

    def take(self, rows):
        return ArrayStore(self.images[rows], _names_of(self._names, rows))


class RaggedStore(Store):
    """Decoded images of any sizes, one after another in memory."""

    def __init__(
        self,
        pixels: tf.Tensor,
        starts: np.ndarray,
        shapes: np.ndarray,
        names: Callable[[int], str],
    ):
        """Keeps `pixels`, which several stores may share.

        Args:
          pixels: uint8 [bytes].
          starts: int64 [N], where each image begins.
          shapes: int64 [N, 3].
          names: describes each image.
        """
        self.num_examples, self.channels = len(shapes), int(shapes[0, 2])
        self.nbytes = int(shapes.prod(axis=1).sum())
        self._names = names
        self._pixels = pixels
        with tf.device("CPU:0"):
            self._starts, self._shapes = tf.constant(starts), tf.constant(shapes)

    def load(self, index):
        shape = tf.gather(self._shapes, index)
        piece = tf.slice(self._pixels, [tf.gather(self._starts, index)], [tf.reduce_prod(shape)])
        return tf.reshape(piece, shape)

    def sizes(self, rows):
        return self._shapes.numpy()[rows, :2]

    def describe(self, index):
        return self._names(int(index))

    def take(self, rows):
        starts, shapes = self._starts.numpy()[rows], self._shapes.numpy()[rows]
        return RaggedStore(self._pixels, starts, shapes, _names_of(self._names, rows))


class EncodedStore(Store):
    """Files or records, decoded when loaded."""

    def __init__(
        self,
        reader,
        channels: int,
        image_shape: tuple[int, int] | None = None,
        rows: np.ndarray | None = None,
    ):
        """Reads through `reader`.

        Args:
          reader: `folder.ImageFolder` or `tfrecords.PreparedSet`: its read(index) returns an
            encoded image, in graphs; contents() is a dataset of all, in order; describe(index) is
            a name, names(rows) are many; unreadable are the numbers of those known to be bad;
            file_sizes as in `Store`.
          channels: to decode to.
          image_shape: (H, W) if all images have this size.
          rows: int64 [n], which of the reader's images; None: all.
        """
        self.channels, self.image_shape = channels, image_shape
        self._reader = reader
        self._rows = rows
        if rows is None:
            self.num_examples, self.unreadable = reader.num_examples, reader.unreadable
            self.file_sizes = reader.file_sizes
            return
        self.num_examples = len(rows)
        self.unreadable = np.flatnonzero(np.isin(rows, reader.unreadable))
        if reader.file_sizes is not None:
            self.file_sizes = reader.file_sizes[rows]
        with tf.device("CPU:0"):  # An accelerator would copy them for each read.
            self._row_numbers = tf.constant(rows)

    def load(self, index):
        if index.shape.rank:
            spec = tf.TensorSpec([*self.image_shape, self.channels], tf.uint8)
            return tf.map_fn(self.load, index, fn_output_signature=spec)
        return self._decode(self.encoded(index))

    def encoded(self, index):
        return self._reader.read(
            index if self._rows is None else tf.gather(self._row_numbers, index)
        )

    def sizes(self, rows):
        if self.image_shape:
            return np.full([len(rows), 2], self.image_shape, np.int64)
        sizes = tf.data.Dataset.from_tensor_slices(rows).map(
            lambda index: image_size(self.encoded(index)), tf.data.AUTOTUNE
        )
        return np.stack(list(sizes.as_numpy_iterator()))

    def describe(self, index):
        return self._reader.describe(int(index if self._rows is None else self._rows[index]))

    def names(self, rows):
        return self._reader.names(rows if self._rows is None else self._rows[rows])

    def take(self, rows):
        rows = rows if self._rows is None else self._rows[rows]
        return EncodedStore(self._reader, self.channels, self.image_shape, rows)

    def in_order(self):
        if self._rows is None:  # Reading on is faster than finding each image.
            return self._reader.contents().map(self._decode, tf.data.AUTOTUNE)
        return super().in_order()

    def _decode(self, contents):
        image = decode(contents, self.channels)
        return tf.ensure_shape(image, [*(self.image_shape or (None, None)), self.channels])


def _names_of(names, rows):
    return lambda index: names(int(rows[index]))
