"""The type the pipeline reads from: a numbered set of images, uint8, handed out in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.data.decoding import decode
from tf_simclr.errors import UserError


class Source:
    """A split of a data set.

    Attributes:
      name: of the data set.
      split: as asked for.
      num_examples: N.
      channels: C of every image it yields.
      unlabelled: a sentence, why there are no labels where there are none.
      images: uint8 [N, H, W, C] where the whole split is an array in memory, else None.
      image_shape: (H, W) where all images are known to have the same, else None.
      fingerprint: hex; the same for the same images on every machine.
      bad_images: what was left out because it cannot be decoded, by name.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        num_examples: int,
        channels: int,
        fingerprint: str,
        images: np.ndarray | None = None,
        image_shape: tuple[int, int] | None = None,
        labels: np.ndarray | Callable[[], np.ndarray | None] | None = None,
        class_names: Sequence[str] | Callable[[], Sequence[str] | None] | None = None,
        unlabelled: str = "",
        reader=None,
    ):
        """Made by `open_source` and `array_source`.

        `labels` and `class_names` may be functions, called when they are first asked for. `reader`
        stands in for `images`: its read(index) gives an encoded image, in graphs, its
        describe(index) a name.
        """
        self.name = name
        self.split = split
        self.num_examples = num_examples
        self.channels = channels
        self.unlabelled = unlabelled
        self.fingerprint = fingerprint
        self.images = images
        self.image_shape = image_shape if images is None else images.shape[1:3]
        self.decoded = None  # By `in_memory`, of many shapes; it then stands in for the reader.
        self.bad_images: list[str] = []
        self._labels = labels
        self._class_names = class_names
        self._reader = reader
        self._rows = None  # Of what the reader counts; None: all.
        self._tensor = None

    def __repr__(self):
        return f"<Source {self.name!r} {self.split!r}: {self.num_examples} images>"

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N], or None; of a TFDS set not in memory they are read when asked for."""
        if callable(self._labels):
            self._labels = self._labels()
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes' names, by label; None for unlabelled images."""
        if callable(self._class_names):
            self._class_names = self._class_names()
        return None if self._class_names is None else tuple(self._class_names)

    @property
    def bytes_in_memory(self) -> int:
        """What the decoded images take that are held; 0 where none are."""
        held = self.decoded if self.images is None else self.images
        return 0 if held is None else held.nbytes

    @property
    def listing(self) -> bytes | None:
        """For a folder: the listing that `open_source` can reuse; None if there is none."""
        return getattr(self._reader, "listing", None)

    @property
    def folder(self) -> str | None:
        """The path of the folder that the images are files of; None for other data sets."""
        return getattr(self._reader, "path", None)

    @property
    def passed_over(self) -> str:
        """Of a folder: what was not read as an image, a sentence; "" for nothing."""
        return getattr(self._reader, "passed_over", "")

    @property
    def unreadable(self) -> np.ndarray:
        """int64 [n], increasing: images that need no try, as their files are empty or too large."""
        rows = getattr(self._reader, "unreadable", np.zeros(0, np.int64))
        return rows if self._rows is None else np.flatnonzero(np.isin(self._rows.numpy(), rows))

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """One decoded image; a function for `Dataset.map`.

        Args:
          index: int64 scalar in [0, N); where all images have one shape, also [n].

        Returns:
          uint8 [h, w, C], or [n, H, W, C].

        Raises:
          tf.errors.OpError: the file is gone or damaged; `find_bad_images` names it.
        """
        if self.image_shape and self._reader is not None and index.shape.rank:
            spec = tf.TensorSpec([*self.image_shape, self.channels], tf.uint8)
            return tf.map_fn(self.load, index, fn_output_signature=spec)
        if self.decoded is not None:
            return self.decoded.load(index)
        if self._reader is not None:
            image = decode(self.encoded(index), self.channels)
            return tf.ensure_shape(image, [*(self.image_shape or (None, None)), self.channels])
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self.images)
        return tf.gather(self._tensor, index)

    def encoded(self, index: tf.Tensor) -> tf.Tensor:
        """The file of one image, as it is stored: scalar string; a function for `Dataset.map`.

        `decoding.decode` decodes it, `headers.image_size` reads the size of the result.

        Raises:
          TypeError: the images are in memory, where no files are.
        """
        if self._reader is None:
            raise TypeError(f"{self!r} is decoded in memory: use its images.")
        return self._reader.read(index if self._rows is None else tf.gather(self._rows, index))

    def describe(self, index: int) -> str:
        """The name of one image for people: its path, where it has one."""
        if self._reader is None:
            return f"{self.name} {self.split}, image {index}"
        return self._reader.describe(index if self._rows is None else int(self._rows[index]))

    def take(self, rows: np.ndarray) -> Source:
        """The source of some of the images, int64 [n], in that order."""

        def labels():
            return None if self.labels is None else self.labels[rows]

        part = Source(
            self.name,
            self.split,
            num_examples=len(rows),
            channels=self.channels,
            fingerprint=_digest(self.fingerprint.encode(), rows),
            images=None if self.images is None else self.images[rows],
            image_shape=self.image_shape,
            labels=labels,
            class_names=lambda: self.class_names,
            unlabelled=self.unlabelled,
            reader=self._reader,
        )
        if self._reader is not None:
            with tf.device("CPU:0"):
                part._rows = tf.constant(rows if self._rows is None else self._rows.numpy()[rows])
        if self.decoded is not None:
            part.decoded = self.decoded.take(rows)
        return part

    def hold(self, images: np.ndarray) -> None:
        """From now on hands out these in place of what it had: uint8 [N, H, W, C], in memory."""
        self.images, self.image_shape = images, images.shape[1:3]
        self._reader = self._rows = self._tensor = None


def array_source(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    split: str = "train",
) -> Source:
    """A source of images in memory.

    Args:
      images: uint8 [N, H, W, C], any C.
      labels: integers [N] from 0, or None.
      class_names: names of the classes; None: "0", "1", ...
      name, split: what to call it.

    Returns:
      The source; it keeps `images`, and does not copy it.

    Raises:
      UserError: another type or shape, no image, labels that do not fit.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise UserError(
            "images must be a uint8 array [N, H, W, C] (C = 1 for grey ones) with at least one "
            f"image; received {images.dtype} {list(images.shape)}."
        )
    if labels is not None:
        labels, class_names = _checked_labels(labels, class_names, len(images))
    return Source(
        name,
        split,
        num_examples=len(images),
        channels=images.shape[3],
        fingerprint=_digest(images, labels),
        images=images,
        labels=labels,
        class_names=class_names if labels is not None else None,
        unlabelled="the array was given without labels.",
    )


def _checked_labels(labels, class_names, count):
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"labels must be {count} integers from 0, one for each image; received "
            f"{labels.dtype} {list(labels.shape)}, least {min(labels.flat, default=None)}."
        )
    classes = int(labels.max()) + 1
    class_names = [str(label) for label in range(classes)] if class_names is None else class_names
    if len(class_names) < classes:
        raise UserError(f"class_names has {len(class_names)} names for {classes} classes.")
    return labels.astype(np.int64), class_names


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.dtype.str, part.shape)).encode())
            part = np.ascontiguousarray(part)
        digest.update(b"" if part is None else part)
    return digest.hexdigest()[:16]
