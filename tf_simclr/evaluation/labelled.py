"""Frozen features with labels, the input of every evaluation, and their checks."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_simclr.errors import UserError


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A split with labels, and its features once they are computed.

    Attributes:
      labels: int64 [N], from 0.
      class_names: names by label.
      split: its name in messages, such as "train[:10%]".
      h: float32 [N, D]; [0, 0] before the features are computed.
    """

    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    split: str = ""
    h: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros([0, 0], np.float32))

    def with_features(self, h: np.ndarray) -> Labelled:
        """The same split with these features."""
        return dataclasses.replace(self, h=h)

    def smallest_class(self) -> tuple[str, int]:
        """(name, number of images) of the smallest class that is not empty."""
        present, counts = np.unique(self.labels, return_counts=True)
        return self.class_names[present[counts.argmin()]], int(counts.min())


def checked_features(
    train_h, test_h, names: tuple[str, str] = ("train_h", "test_h")
) -> tuple[np.ndarray, np.ndarray]:
    """Checks features and returns both as float arrays [N, D] and [M, D].

    Args:
      train_h, test_h: the features.
      names: the caller's names for them, for messages.

    Raises:
      UserError: one is not a matrix, is empty or has a value that is not finite; or the widths
        differ.
    """
    both = {name: np.asarray(h) for name, h in zip(names, (train_h, test_h))}
    for name, h in both.items():
        if h.ndim != 2 or h.size == 0:
            raise UserError(f"{name} must be [examples, features], none empty; received {h.shape}.")
        if h.dtype.kind not in "fiub":
            raise UserError(f"{name} must be numbers; received dtype {h.dtype}.")
        finite = np.isfinite(h).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{name} must be finite; {np.sum(~finite)} of {len(h)} rows received are not, the "
                f"first is row {np.argmin(finite)}. An encoder that diverged gives such features."
            )
    train_h, test_h = both.values()
    if train_h.shape[1] != test_h.shape[1]:
        raise UserError(
            f"{' and '.join(names)} must have the same number of features; received "
            f"{train_h.shape} and {test_h.shape}."
        )
    return tuple(h if h.dtype.kind == "f" else h.astype(np.float32) for h in (train_h, test_h))


def checked_labels(name: str, labels, h: np.ndarray) -> np.ndarray:
    """Checks labels and returns them as int64 [N].

    Args:
      name: name of the argument, for messages.
      labels: [N] integers from 0.
      h: [N, D] features with these labels.

    Raises:
      UserError: the labels are not N, not integers, or negative (as "no label" is in TFDS).
    """
    labels = np.asarray(labels)
    if labels.shape != (len(h),):
        raise UserError(f"{name} must be [{len(h)}], one a row; received shape {labels.shape}.")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{name} must be integers; received dtype {labels.dtype}.")
    if labels.min() < 0:
        raise UserError(f"{name} must be classes from 0; received {labels.min()}, which is none.")
    return labels.astype(np.int64)
