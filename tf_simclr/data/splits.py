"""Slices of a data set, in TFDS's notation: `train`, `train[:90%]`, `train[90%:]`."""

from __future__ import annotations

import re

import numpy as np

from tf_simclr.errors import UserError

_PATTERN = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>-?\d{1,18}%?)?:(?P<stop>-?\d{1,18}%?)?\])?")
_SEED = 20200213  # Seeds the order that slices are cut from: a new value changes every hold-out.


def parse_split(split: str) -> tuple[str, tuple[str, str] | None]:
    """Parses a split such as "train[:90%]".

    Args:
      split: a name, or a name and [from:to]. Each bound is an image number or a percentage, or is
        left out; negative ones count from the end.

    Returns:
      (name, (from, to)) with the bounds as written, "" if left out; (name, None) without a slice.

    Raises:
      UserError: the split does not have this form.
    """
    match = _PATTERN.fullmatch(split.strip())
    if not match:
        raise UserError(
            f"split={split!r} is not understood; write train, train[:90%], train[90%:] or "
            "train[100:200]."
        )
    is_slice = "[" in split
    return match["name"], (match["start"] or "", match["stop"] or "") if is_slice else None


def slice_rows(labels: np.ndarray | None, num_examples: int, bounds: tuple[str, str]) -> np.ndarray:
    """The examples of a slice, in the data set's order.

    Slices are cut from `spread_order`, because data sets are usually sorted by class, so that the
    last tenth would be one class. Slices that do not overlap as written share no example.

    Args:
      labels: int64 [N], or None.
      num_examples: N.
      bounds: from `parse_split`.

    Returns:
      int64 [n], increasing.

    Raises:
      UserError: the slice is empty, or a bound is beyond the data set.
    """
    text = f"[{bounds[0]}:{bounds[1]}]"
    start = _place(bounds[0], num_examples, text) if bounds[0] else 0
    stop = _place(bounds[1], num_examples, text) if bounds[1] else num_examples
    if start >= stop:
        raise UserError(f"the split's slice {text} of {num_examples} examples is empty.")
    return np.sort(spread_order(labels, num_examples)[start:stop])


def spread_order(labels: np.ndarray | None, num_examples: int) -> np.ndarray:
    """A fixed shuffle in which every section has about the class proportions of the whole.

    Args:
      labels: int64 [N], or None for a plain shuffle.
      num_examples: N.

    Returns:
      int64 [N], a permutation; the same on every machine.
    """
    shuffled = np.random.RandomState(_SEED).permutation(num_examples)  # Same in all NumPy versions.
    if labels is None:
        return shuffled
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]
    # The j-th of the n examples of a class belongs at (j + 1/2) / n of the way.
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
    return by_class[np.argsort(places, kind="stable")]


def _place(bound, num_examples, text):
    """A bound as a position in [0, num_examples]."""
    if bound.endswith("%"):
        percent = int(bound[:-1])
        if abs(percent) > 100:
            raise UserError(f"the split's slice {text} goes beyond 100%.")
        place = (abs(percent) * num_examples + 50) // 100 * (-1 if percent < 0 else 1)
    else:
        place = int(bound)
        if abs(place) > num_examples:
            raise UserError(
                f"the split's slice {text} goes beyond the {num_examples} examples there are."
            )
    return place + num_examples if place < 0 else place
