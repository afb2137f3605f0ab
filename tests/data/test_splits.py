"""Slices of splits: their bounds; they are disjoint and contain every class."""

from __future__ import annotations

import numpy as np
import pytest

from tf_simclr.data.splits import parse_split, slice_rows, spread_order
from tf_simclr.errors import UserError

LABELS = np.repeat([0, 1, 2, 4], [40, 100, 7, 53])  # Sorted by class; class 3 is empty.


@pytest.mark.parametrize(
    "split, parsed",
    [
        ("train", ("train", None)),
        (" test ", ("test", None)),
        ("train[:90%]", ("train", ("", "90%"))),
        ("train[100:]", ("train", ("100", ""))),
        ("train[-10%:-5]", ("train", ("-10%", "-5"))),
        ("train[:]", ("train", ("", ""))),
    ],
)
def test_parses(split, parsed):
    assert parse_split(split) == parsed


@pytest.mark.parametrize(
    "split", ["", "train[", "train[5]", "train[:x]", "train[a:]", "train[:1.5%]", "[:5]"]
)
def test_says_what_is_not_understood(split):
    with pytest.raises(UserError, match=r"split=.*train\[:90%\]"):
        parse_split(split)


@pytest.mark.parametrize(
    "bounds, count",
    [
        (("", ""), 200),
        (("", "90%"), 180),
        (("90%", ""), 20),
        (("-10%", ""), 20),
        (("", "-150"), 50),
        (("3", "10"), 7),
        (("", "33%"), 66),
        (("0%", "100%"), 200),
        (("-100%", "1"), 1),
    ],
)
def test_slices_hold_what_they_say(bounds, count):
    for labels in (LABELS, None):
        rows = slice_rows(labels, 200, bounds)
        assert rows.dtype == np.int64 and len(rows) == count
        # Not just the first or the last examples, which in a folder would be whole classes.
        assert count in (1, 200) or rows[-1] - rows[0] >= count
        assert (np.diff(rows) > 0).all() and rows.min() >= 0 and rows.max() < 200


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("cut", ["37%", "1", "150"])
def test_two_parts_make_the_whole(labels, cut):
    parts = [slice_rows(labels, 200, bounds) for bounds in (("", cut), (cut, ""))]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(200))


def test_slices_hold_the_classes_in_proportion():
    whole = np.bincount(LABELS) / 200
    for bounds in (("", "10%"), ("45%", "55%"), ("90%", "")):
        part = np.bincount(LABELS[slice_rows(LABELS, 200, bounds)], minlength=5)
        assert (np.abs(part - 20 * whole) <= 1).all()


@pytest.mark.parametrize(
    "bounds, message",
    [
        (("5", "5"), "empty"),
        (("", "0%"), "empty"),
        (("260", ""), "200"),
        (("", "201"), "200"),
        (("", "101%"), "100%"),
    ],
)
def test_refuses_what_is_not_there(bounds, message):
    with pytest.raises(UserError, match=message):
        slice_rows(LABELS, 200, bounds)


def test_order_never_changes():
    # A hold-out must stay the same for years: these are from RandomState, whose stream NumPy has
    # frozen.
    shuffled = np.random.RandomState(20200213).permutation(6)
    np.testing.assert_array_equal(spread_order(None, 6), shuffled)
    labels = np.array([1, 1, 1, 1, 0, 0])
    order = spread_order(labels, 6)
    np.testing.assert_array_equal(labels[order], [1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(order[labels[order] == 0], shuffled[labels[shuffled] == 0])
