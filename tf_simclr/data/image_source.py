"""What the pipeline reads from: facts about a set of images, and the store of their pixels."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.data.stores import ArrayStore, Store
from tf_simclr.errors import UserError


class Source:
    """A split of a data set: facts about its images, and the store that has their pixels.

    A source is immutable: `take` and `with_store` return another one.

    Attributes:
      name: of the data set.
      split: as asked for.
      store: where the pixels are.
      unlabelled: a sentence, why there are no labels; "" if there are some.
      fingerprint: hex; the same for the same images on every machine.
      folder: the path of the folder whose files the images are; None for other data sets.
      passed_over: a sentence on files that were not read as images; "" if there are none.
      bad_images: the names of images that were left out because they cannot be decoded.
      left_out: how many images a list left out.
    """

    def __init__(
        self,
        name: str,
        split: str,
        store: Store,
        *,
        fingerprint: str,
        labels: np.ndarray | Callable[[], np.ndarray | None] | None = None,
        class_names: Sequence[str] | Callable[[], Sequence[str] | None] | None = None,
        unlabelled: str = "",
        folder: str | None = None,
        passed_over: str = "",
        remember: Callable[[], None] | None = None,
    ):
        """Made by `open_source` and `array_source`.

        `labels` and `class_names` may be functions, called when they are first needed. `remember`
        is what the method of this name does.
        """
        self.name = name
        self.split = split
        self.store = store
        self.unlabelled = unlabelled
        self.fingerprint = fingerprint
        self.folder = folder
        self.passed_over = passed_over
        self.bad_images: list[str] = []
        self.left_out = 0
        self._labels = _once(labels)
        self._class_names = _once(class_names)
        self._remember = remember

    def __repr__(self):
        return f"<Source {self.name!r} {self.split!r}: {self.num_examples} images>"

    @property
    def num_examples(self) -> int:
        """N."""
        return self.store.num_examples

    @property
    def channels(self) -> int:
        """C of every image."""
        return self.store.channels

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """(H, W) if all images are known to have this size, else None."""
        return self.store.image_shape

    @property
    def images(self) -> np.ndarray | None:
        """uint8 [N, H, W, C] if the whole split is one array in memory, else None."""
        return self.store.images

    @property
    def labels(self) -> np.ndarray | None:
        """int64 [N], or None; read when first needed if a TFDS set is not in memory."""
        return self._labels()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes' names, by label; None for unlabelled images."""
        names = self._class_names()
        return None if names is None else tuple(names)

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """One decoded image; a function for `Dataset.map`.

        Args:
          index: int64 scalar in [0, N); also [n] if there is an `image_shape`.

        Returns:
          uint8 [h, w, C], or [n, H, W, C].

        Raises:
          tf.errors.OpError: the file is gone or damaged; `find_bad_images` names it.
        """
        return self.store.load(index)

    def encoded(self, index: tf.Tensor) -> tf.Tensor:
        """The file of one image, as it is stored: scalar string; a function for `Dataset.map`.

        `decoding.decode` decodes it, `headers.image_size` reads the size of the result.

        Raises:
          TypeError: the images are decoded in memory.
        """
        return self.store.encoded(index)

    def describe(self, index: int) -> str:
        """The name of one image for people: its path, if it has one."""
        return self.store.describe(index)

    def names(self, rows: np.ndarray) -> list[str]:
        """What `describe` returns for some of the images, int64 [n], but faster for files."""
        return self.store.names(rows)

    def take(self, rows: np.ndarray) -> Source:
        """The source of some of the images, int64 [n], in that order."""
        labels = self._labels
        return self._changed(
            store=self.store.take(rows),
            fingerprint=_digest(self.fingerprint.encode(), rows),
            _labels=_once(lambda: None if labels() is None else labels()[rows]),
        )

    def with_store(self, store: Store) -> Source:
        """The same images, which are now read from `store`."""
        return self._changed(store=store)

    def without(self, bad: np.ndarray, names: Sequence[str]) -> Source:
        """The source of the images for which `bad`, bool [N], is false; `names` are the others'."""
        return self.take(np.flatnonzero(~bad))._changed(bad_images=list(names))

    def leave_out(self, excluded: np.ndarray) -> Source:
        """The source of the images for which `excluded`, bool [N], is false."""
        left_out = self.left_out + int(excluded.sum())
        return self.take(np.flatnonzero(~excluded))._changed(left_out=left_out)

    def remember(self) -> None:
        """Writes what makes opening the same data set faster, where `open_source` was told to.

        A run calls this once it owns the workdir, so that nothing is written before.

        Raises:
          UserError: the file cannot be written.
        """
        if self._remember is not None:
            self._remember()

    def _changed(self, **attributes):
        changed = copy.copy(self)
        vars(changed).update(attributes)
        return changed


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
      The source; it keeps `images` without copying it.

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
        ArrayStore(images, lambda index: f"{name} {split}, image {index}"),
        fingerprint=_digest(images, labels),
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


def _once(value):
    """A function that returns `value`; if that is a function, its result, computed once."""
    return functools.cache(value) if callable(value) else lambda: value
