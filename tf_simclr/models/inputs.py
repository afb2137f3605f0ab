"""The forms, shapes and dtypes of batches that SimCLR accepts.

All of them are known when a step is traced, so checking them costs nothing while it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError

_LABEL = "label"  # In a batch of `two_view_dataset(labels=True)`.
_KERAS_CV = ("augmented_images_0", "augmented_images_1")  # As keras-cv's ContrastiveTrainer has.


class Pairs:
    """Batches to train or evaluate on: two views of each image, and what a probe needs.

    Views are a batch of `two_view_dataset`, or two tensors [n, H, W, C] as a tuple or as a dict,
    of which the first by name is the first view. A batch is `views` or `(views, labels)`, with the
    labels ignored; with a probe it is `(views, (images, labels))`. The dict of keras-cv's
    ContrastiveTrainer, with "augmented_images_0" and "augmented_images_1", and with "images" and
    "labels" for a probe, is taken as well.

    For a loss that needs labels, views come with the labels [n] of their images: `(views, labels)`,
    a batch of `two_view_dataset(labels=True)`, or keras-cv's dict with "labels".
    """

    def __init__(self, images: tf.TensorSpec, probe: bool, replicas: int, labels: bool = False):
        """Describes the batches that a model takes.

        Args:
          images: spec of the encoder's input, [None, H, W, C].
          probe: whether a batch must have labelled images.
          replicas: number of replicas that share a batch.
          labels: whether the views must have labels.
        """
        self._images, self._probe, self._replicas = images, probe, replicas
        self._labels = labels

    def take(self, data) -> tuple[Any, tuple | None, Any]:
        """Splits a replica's batch; `data` may be tensors or specs of them.

        Returns:
          (the views: the pipeline's dict or a tuple of two; the probe's (images, labels [m]) or
          None; the views' labels [n] int64 or, unless they are needed, None).

        Raises:
          UserError: `data` has none of these forms, or a shape or dtype does not fit.
        """
        views, labelled, labels = self._parts(data)
        if isinstance(views, dict):
            _check_pipeline(views["images"], self._images)
        else:
            _check_images("views", views, self._images)
        if labelled is not None:
            _check_images("labelled images", labelled[:1], self._images)
            _check_labels("the probe's labels", labelled[1])
            labelled = labelled[0], _int64(labelled[1])
        if labels is not None:
            rows = (views["images"] if isinstance(views, dict) else views[0]).shape[:1]
            _check_labels("the labels of the views", labels, rows)
            labels = _int64(labels)
        return views, labelled, labels

    def check(self, specs) -> None:
        """Checks global batches of these specs, where None is a size that may change.

        Separate from `take`: when Keras retraces a step for another batch size, the size is unknown
        there although every batch is shared evenly.

        Raises:
          UserError: as `take`; replicas would get unequal batches; or batches have only one pair.
        """

        def share(spec):
            if not _is_tensor(spec) or not spec.shape.rank or spec.shape[0] is None:
                return spec
            self.check_rows(spec.shape[0], f"batches of {spec.shape[0]}")
            return tf.TensorSpec([spec.shape[0] // self._replicas, *spec.shape[1:]], spec.dtype)

        self._parts(specs)  # An unknown form is named first.
        views, *_ = self.take(tf.nest.map_structure(share, specs))
        rows = (views["images"] if isinstance(views, dict) else views[0]).shape[0]
        if rows is None and self._replicas > 1:
            raise UserError(self._unequal("batches of unknown size"))
        if rows == 1 and self._replicas == 1:
            raise UserError(
                "SimCLR needs at least two pairs in a batch, as each pair's negatives are the "
                "others; received a batch size of 1."
            )

    def check_rows(self, rows: int, found: str) -> None:
        """Raises UserError, quoting `found`, if replicas cannot share `rows` evenly."""
        if rows % self._replicas:
            raise UserError(self._unequal(found))

    def floats(self, data) -> list:
        """The images of a batch with a float dtype, which does not fix their range."""
        views, labelled, _ = self._parts(data)
        images = [] if isinstance(views, dict) else list(views)
        images += [] if labelled is None else [labelled[0]]
        return [x for x in images if x.dtype.is_floating]

    def _parts(self, data):
        data = as_tensors(_unwrapped(data))
        views, second, labels = None, None, None
        if isinstance(data, dict) and set(_KERAS_CV) <= data.keys():
            views, labels = _views_in([data[name] for name in _KERAS_CV]), data.get("labels")
            second = [data[name] for name in ("images", "labels") if name in data]
        elif _is_pair(data) and not _is_tensor(data[0]):
            first, second = _unwrapped(data[0]), data[1]
            if self._labels and self._probe and _is_pair(first) and not _is_tensor(first[0]):
                first, labels = _unwrapped(first[0]), first[1]
            elif self._labels and not self._probe:
                labels = second
            views = _views_in(first)
        else:
            views = _views_in(data)
        if isinstance(views, dict) and _LABEL in views:
            labels = views[_LABEL]
            views = {name: value for name, value in views.items() if name != _LABEL}
        labels = labels if self._labels and _is_tensor(labels) else None
        complete = views and (labels is not None or not self._labels)
        if complete and not self._probe:
            return views, None, labels
        if not complete or not _are_two_tensors(second):
            raise UserError(f"SimCLR trains on {self._forms()}; received {_described(data)}.")
        return views, tuple(second), labels

    def _forms(self) -> str:
        views = "batches of two_view_dataset or two views (view_a, view_b), each [N, H, W, C]"
        if self._labels:
            views = (
                "batches of two_view_dataset(labels=True) or ((view_a, view_b), labels), with "
                "views [N, H, W, C] and labels [N], as its loss needs labels"
            )
        if self._probe:
            return f"(views, (images, labels)) when it has a probe; views are {views}"
        return views if self._labels else f"{views}, alone or as (views, labels)"

    def _unequal(self, found: str) -> str:
        return (
            f"all {self._replicas} replicas need the same number of pairs; received {found}. Batch "
            f"with drop_remainder=True and a batch size divisible by {self._replicas}."
        )


class Images:
    """Batches to predict on: images, alone or first in a tuple, as (images, labels)."""

    def __init__(self, images: tf.TensorSpec):
        self._images = images

    def take(self, data):
        """The images of a batch; UserError if the encoder does not take them."""
        data = as_tensors(data)
        found = data[0] if isinstance(data, (tuple, list)) and data else data
        if not _is_tensor(found):
            raise UserError(f"SimCLR predicts on images [N, H, W, C]; received {_described(data)}.")
        _check_images("images", [found], self._images)
        return found

    def check(self, specs) -> None:
        """As in `Pairs`."""
        self.take(specs)

    def check_rows(self, rows: int, found: str) -> None:
        """As in `Pairs`; any batch size is accepted."""

    def floats(self, data) -> list:
        """As in `Pairs`."""
        return [x for x in [self.take(data)] if x.dtype.is_floating]


def to_float(images) -> tf.Tensor:
    """Images as encoders take them: uint8 [0, 255] to float32 [0, 1]; floats keep their values.

    Raises:
      UserError: another dtype.
    """
    images = tf.convert_to_tensor(images)
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) * (1.0 / 255.0)
    _check_dtype("images", images.dtype)
    return tf.cast(images, tf.float32)


def as_tensors(data):
    """`data` with arrays converted to tensors."""
    return tf.nest.map_structure(
        lambda x: tf.convert_to_tensor(x) if isinstance(x, np.ndarray) else x, data
    )


def _is_tensor(x) -> bool:
    return isinstance(x, (tf.Tensor, tf.TensorSpec))


def _is_pair(x) -> bool:
    return isinstance(x, (tuple, list)) and len(x) == 2


def _are_two_tensors(x) -> bool:
    return _is_pair(x) and all(map(_is_tensor, x))


def _unwrapped(data):
    """Keras wraps the `x` of `fit(x)` in a tuple of one."""
    alone = isinstance(data, (tuple, list)) and len(data) == 1
    return _unwrapped(data[0]) if alone else data


def _views_in(data):
    """The pipeline's dict, or a tuple of two tensors; None if `data` is neither."""
    if isinstance(data, dict):
        images = data.get("images")
        if _is_tensor(images) and images.shape.rank == 5:
            return data
        data = [data[name] for name in sorted(data)]
    # If the ranks differ, the second tensor is labels, not a view.
    alike = _are_two_tensors(data) and data[0].shape.rank == data[1].shape.rank
    return tuple(data) if alike else None


def _check_pipeline(images, expected) -> None:
    wanted = [None, 2, *expected.shape[1:]]
    if images.dtype != tf.uint8 or not images.shape.is_compatible_with(wanted):
        raise UserError(
            f"two_view_dataset must give this encoder uint8 images {_shape(wanted)}; received "
            f"{_described(images)}. Set its image_size to the encoder's."
        )


def _check_images(what: str, images, expected) -> None:
    same = all(x.shape.is_compatible_with(images[0].shape) for x in images)
    if not same or not all(x.shape.is_compatible_with(expected.shape) for x in images):
        raise UserError(
            f"{what} must have the shape {_shape(expected.shape)} that the encoder takes, and the "
            f"same number of images; received {' and '.join(map(_described, images))}."
        )
    for x in images:
        _check_dtype(what, x.dtype)


def _check_dtype(what: str, dtype) -> None:
    if dtype != tf.uint8 and not dtype.is_floating:
        raise UserError(
            f"{what} must be uint8 in [0, 255] or floats in [0, 1]; received {dtype.name}."
        )


def _check_labels(what: str, labels, rows=None) -> None:
    wanted = tf.TensorShape([None]) if rows is None else tf.TensorShape(rows)
    if not labels.shape.is_compatible_with(wanted) or not labels.dtype.is_integer:
        raise UserError(
            f"{what} must be class numbers, integers [{wanted[0] or 'N'}]; received "
            f"{_described(labels)}."
        )


def _int64(labels):
    return tf.cast(labels, tf.int64) if isinstance(labels, tf.Tensor) else labels


def _described(data) -> str:
    """Shapes and dtypes in a batch, such as ((8, 32, 32, 3) float32, (8,) int64)."""
    if isinstance(data, dict):
        parts = (f"{name!r}: {_described(part)}" for name, part in data.items())
        return f"{{{', '.join(parts)}}}"
    if isinstance(data, (tuple, list)):
        return f"({', '.join(map(_described, data))})"
    if _is_tensor(data):
        return f"{_shape(data.shape)} {data.dtype.name}"
    return f"{data!r:.100}"


def _shape(shape) -> str:
    return str(tf.TensorShape(shape)).replace("None", "N", 1)
