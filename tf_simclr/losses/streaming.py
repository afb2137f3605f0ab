"""Sums over negatives in tiles: no matrix of logits, and memory linear in the batch.

The forward pass sums a term's phi (`terms.py`) tile by tile; the backward pass recomputes the
tiles. The logits of a replica's own rows are symmetric, so each pair of blocks is computed only
once. Exponentials are not shifted by their maximum: with logits of at most `largest_logit` they
neither overflow nor vanish, whatever the other logits in their row, so the sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

_MOST_ROWS = 520
"""Approximate rows per block: larger is faster, smaller takes less memory."""
_MOST_ENTRIES = 2**24
_AT_ONCE = 2
"""Tiles in flight: a thread that waits for one matrix product can work on the other."""


def forward(term, u, others, bar):
    """(sum [M], count [M] or None) of this replica's rows; see `negatives.Sum`."""
    totals = _own_totals(term, u, bar)
    if others.shape[0]:
        totals += _totals_with(term, others, u, bar)
    reaching = None if bar is None else tf.cast(totals[:, 1], tf.int32)
    return term.finish(totals[:, 0]), reaching


def backward(term, u, others, mine, theirs):
    """dL/du [M, D] from (sum, dL/dsum) of this replica's rows [M, 2] and of the others'."""
    weight = term.weight(*tf.split(mine, 2, axis=1))
    gradient = _own_gradient(term, u, weight)
    if others.shape[0]:
        their_weight = term.weight(*tf.split(theirs, 2, axis=1))
        gradient += _gradient_from(term, others, their_weight, u, weight)
    return gradient


class _Ring:
    """Rows divided into an odd number of blocks, arranged in a circle.

    Each block is multiplied with itself and with the half of the circle ahead of it. So every pair
    of blocks is visited once, every block does the same work, and every shape is static. The last
    block is padded with rows of zeros, whose weight is zero.
    """

    def __init__(self, rows: int):
        self.rows = rows
        self.blocks = max(2, rows // _MOST_ROWS, rows * rows // 2 // _MOST_ENTRIES) | 1
        self.height = (
            -(-rows // (16 * self.blocks)) * 16
        )  # A multiple of 16, to fill vector registers.
        self.ahead = self.height * (self.blocks // 2)

    def close(self, x):
        """Pads x [rows, ...] to whole blocks and repeats its beginning after its end."""
        x = tf.pad(x, [[0, self.height * self.blocks - self.rows], [0, 0]])
        return tf.concat([x, x[: self.ahead]], axis=0)

    def meet(self, closed, block):
        """Returns the rows of a block, and the rows ahead of it."""
        start, width = block * self.height, closed.shape[1]
        return (
            tf.slice(closed, [start, 0], [self.height, width]),
            tf.slice(closed, [start + self.height, 0], [self.ahead, width]),
        )

    def add_up(self, meeting: Callable, width: int):
        """Sums what `meeting(block)` adds to a block's rows and to those ahead: [rows, width]."""

        def body(block, total):
            own, ahead = meeting(block)
            # Rotates by one block each time, so that after the last every row is back in place.
            shared, rest = total[self.height :][: self.ahead], total[self.height + self.ahead :]
            return [block + 1, tf.concat([shared + ahead, rest, total[: self.height] + own], 0)]

        _, total = tf.while_loop(
            lambda block, _: block < self.blocks,
            body,
            [tf.constant(0), tf.zeros([self.height * self.blocks, width])],
            parallel_iterations=_AT_ONCE,
            maximum_iterations=self.blocks,
        )
        return total[: self.rows]


def _own_totals(term, u, bar):
    """[M, 1 or 2]: sum of phi and, given `bar`, number of logits >= bar, in own rows."""
    ring = _Ring(u.shape[0])
    closed, ones = ring.close(u), ring.close(tf.ones([ring.rows, 1]))
    bars = None if bar is None else ring.close(bar[:, tf.newaxis])

    def meeting(block):
        rows, ahead = ring.meet(closed, block)
        one, one_ahead = ring.meet(ones, block)
        inside, across = _logits(rows, rows), _logits(rows, ahead)
        to_own, to_ahead = _sums(term.of(across), one, one_ahead)
        to_own += tf.matmul(_between_images(term.of(inside)), one)
        if bars is not None:
            bar, bar_ahead = ring.meet(bars, block)
            own = tf.matmul(_between_images(_reaches(inside, bar)), one)
            own += tf.matmul(_reaches(across, bar), one_ahead)
            counted = _reaches(across, tf.transpose(bar_ahead))
            to_own = tf.concat([to_own, own], axis=1)
            to_ahead = tf.concat([to_ahead, tf.matmul(counted, one, transpose_a=True)], axis=1)
        return to_own, to_ahead

    return ring.add_up(meeting, 1 if bar is None else 2)


def _own_gradient(term, u, weight):
    ring = _Ring(u.shape[0])
    closed, weights = ring.close(u), ring.close(weight)

    def meeting(block):
        rows, ahead = ring.meet(closed, block)
        row_weight, weight_ahead = ring.meet(weights, block)
        inside = _between_images(_mutual(term, _logits(rows, rows), row_weight, row_weight))
        across = _mutual(term, _logits(rows, ahead), row_weight, weight_ahead)
        own = tf.matmul(inside, rows) + tf.matmul(across, ahead)
        return own, tf.matmul(across, rows, transpose_a=True)

    return ring.add_up(meeting, u.shape[1])


def _totals_with(term, others, u, bar):
    """As `_own_totals`, but for own rows against the rows of other replicas."""
    one = tf.ones([others.shape[0], 1])

    def panel(rows, bar=None):
        logits = _logits(rows, others)
        totals = [tf.matmul(term.of(logits), one)]
        if bar is not None:
            totals.append(tf.matmul(_reaches(logits, bar), one))
        return tf.concat(totals, axis=1)

    inputs = [u] if bar is None else [u, bar[:, tf.newaxis]]
    return by_panels(panel, inputs, columns=others.shape[0])


def _gradient_from(term, others, their_weight, u, weight):
    def panel(rows, row_weight):
        mutual = _mutual(term, _logits(rows, others), row_weight, their_weight)
        return tf.matmul(mutual, others)

    return by_panels(panel, [u, weight], columns=others.shape[0])


def by_panels(panel, inputs, columns):
    """Applies `panel` to some rows of the inputs at a time, and concatenates the results.

    Args:
      panel: a function of some rows of each input, to float32 [rows, any].
      inputs: tensors [M, ...], M static.
      columns: width of the largest matrix that a panel makes.
    """
    rows = inputs[0].shape[0]
    panels = max(1, -(-rows // _MOST_ROWS), rows * columns // _MOST_ENTRIES)
    height = -(-rows // panels)
    panels = -(-rows // height)
    stacked = [
        tf.reshape(tf.pad(x, [[0, panels * height - rows], [0, 0]]), [panels, height, x.shape[1]])
        for x in inputs
    ]
    result = tf.map_fn(
        lambda slices: panel(*slices),
        stacked,
        fn_output_signature=tf.float32,
        parallel_iterations=_AT_ONCE,
    )
    return tf.reshape(result, [panels * height, result.shape[-1]])[:rows]


def _logits(rows, columns):
    return tf.matmul(rows, columns, transpose_b=True)


def _reaches(logits, bar):
    return tf.cast(logits >= bar, tf.float32)


def _between_images(block):
    """Zeroes the entries between views of the same image, which are not negatives.

    Rows 2k and 2k + 1 are the views of one image, and so in the same block.
    """
    image = tf.range(block.shape[0]) // 2
    return tf.where(image[:, tf.newaxis] == image[tf.newaxis, :], 0.0, block)


def _sums(values, row_one, column_one):
    """Sums of the values over columns and over rows, weighted by `*_one`."""
    return tf.matmul(values, column_one), tf.matmul(values, row_one, transpose_a=True)


def _mutual(term, logits, row_weight, column_weight):
    """The weight of each row and column for each other in the gradient."""
    return term.slope(logits) * (row_weight + tf.transpose(column_weight))
