"""Parts of a data set: `train`, `train[:90%]`, `train[90%:]`, written as TFDS writes them."""

from __future__ import annotations

import re

import numpy as np

from tf_simclr.errors import UserError

_PATTERN = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>-?\d{1,18}%?)?:(?P<stop>-?\d{1,18}%?)?\])?")
_SEED = 20200213  # Of the order slices are cut from; changing it changes everybody's hold-out.


def parse_split(split: str) -> tuple[str, tuple[str, str] | None]:
    """Takes a split such as "train[:90%]" apart.

    Args:
      split: a name, or a name and [from:to], each an image number or a percentage, or left out;
        negative ones count from the end.

    Returns:
      (name, (from, to)) with the bounds as written, "" where left out; (name, None) for the whole.

    Raises:
      UserError: not of this form.
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

    Slices are cut from `spread_order`, not from the data set's own order: that is usually sorted by
    class, and its last tenth would be one class. Slices that do not overlap as written share no
    example.

    Args:
      labels: int64 [N], or None.
      num_examples: N.
      bounds: from `parse_split`.

    Returns:
      int64 [n], increasing.

    Raises:
      UserError: an empty slice, or a bound beyond the data set.
    """
    text = f"[{bounds[0]}:{bounds[1]}]"
    start = _place(bounds[0], num_examples, text) if bounds[0] else 0
    stop = _place(bounds[1], num_examples, text) if bounds[1] else num_examples
    if start >= stop:
        raise UserError(f"the split's slice {text} of {num_examples} examples is empty.")
    return np.sort(spread_order(labels, num_examples)[start:stop])


def spread_order(labels: np.ndarray | None, num_examples: int) -> np.ndarray:
    """A fixed shuffle in which every stretch has the classes in the proportions of the whole.

    Args:
      labels: int64 [N], or None for a plain shuffle.
      num_examples: N.

    Returns:
      int64 [N], a permutation; the same on every machine.
    """
    shuffled = np.random.RandomState(_SEED).permutation(num_examples)  # Stable across NumPys.
    if labels is None:
        return shuffled
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]
    # The j-th of the n examples of a class belongs at (j + 1/2) / n of the way.
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
    return by_class[np.argsort(places, kind="stable")]


def _place(bound, num_examples, text):
    """A bound as a place in [0, num_examples]."""
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
