"""What losses take from the views of all replicas: sums over the negatives of every view.

The forward pass gathers the embeddings, the backward pass a few numbers per row. In between are
matrix products, either whole (`dense`) or in tiles (`streaming`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import tensorflow as tf

from tf_simclr.distribute import gather_others, num_replicas
from tf_simclr.losses import dense, streaming
from tf_simclr.losses.terms import Term

_STREAM_FROM = 2**20
"""Entries of the matrix of logits, 512 pairs on one replica (benchmarks/nt_xent.py, untiled)."""


class Outcome(NamedTuple):
    """What a `Part` computes for the rows of this replica."""

    result: tf.Tensor
    """[M] float32, differentiable."""
    kept: list[tf.Tensor]
    """[M] float32 each: numbers per row that every replica needs for the gradient."""
    reaching: tf.Tensor | None = None
    """[M] int32, how many negatives reach the row's bar; None: not counted."""


class Part(Protocol):
    """A quantity per row that depends on the rows of all replicas, for `over_replicas`."""

    sent: tf.Tensor | None
    """[M, c] float32: numbers per row that the other replicas need as well; None: there are none.
    They travel with the embeddings, in one exchange."""
    forward: Callable
    """From (own rows u [M, D], the others' rows [(R - 1) M, D], and their `sent` if it has any) to
    an `Outcome`."""
    backward: Callable
    """dL/du [M, D] from (own rows, the others', then for own and for the others' rows [., c]: the
    numbers `kept` and the upstream gradient). It includes what the others' rows contribute."""


def over_replicas(u: tf.Tensor, *parts: Part) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Computes the parts with one exchange between replicas forward, and one back.

    Differentiable in u. Other replicas' rows also contribute gradients to this replica's rows. Each
    replica sends the numbers that its parts keep and their upstream gradient, from which the others
    compute the gradients, instead of gradients. A replica receives 4 M D (R - 1) bytes of
    embeddings a step, of R replicas with M rows each, then 4 M (R - 1) bytes for each number.
    Exchanging gradients would be 4 M D (R - 1) a second time.

    Args:
      u: [M, D] float32, as many on every replica; the two views of an image in rows 2k and 2k + 1.
      parts: what to compute.

    Returns:
      (the parts' results, [M] float32 each; the counts `reaching` of those that count, [M] int32).
    """

    @tf.custom_gradient
    def with_gradient(u):
        sent = [part.sent for part in parts if part.sent is not None]
        received = gather_others(tf.concat([u, *sent], axis=1) if sent else u)
        others, *theirs = tf.split(received, [x.shape[1] for x in (u, *sent)], axis=1)
        outcomes = [
            part.forward(u, others, *([] if part.sent is None else [theirs.pop(0)]))
            for part in parts
        ]
        counts = [outcome.reaching for outcome in outcomes if outcome.reaching is not None]

        def gradient(*upstream):
            rows = [[*outcome.kept, g] for outcome, g in zip(outcomes, upstream)]
            mine = tf.stack([number for row in rows for number in row], axis=1)
            split = [len(row) for row in rows]
            numbers = (tf.split(x, split, axis=1) for x in (mine, gather_others(mine)))
            return tf.add_n([p.backward(u, others, *of) for p, *of in zip(parts, *numbers)])

        return [*(outcome.result for outcome in outcomes), *counts], gradient

    everything = with_gradient(u)
    return everything[: len(parts)], everything[len(parts) :]


class Sum:
    """A term summed over the negatives of each row: the views k of other images, of all replicas.

    For example log Z_i = log sum_k exp(u_i . u_k). With s = u_i . u_k and its upstream gradient g,

        dL/du_i = sum_k (g_i exp(s - log Z_i) + g_k exp(s - log Z_k)) u_k,

    for which each replica sends log Z and g of its rows.
    """

    sent = None

    def __init__(self, term: Term, bar: tf.Tensor | None = None, *, largest_logit: float):
        """
        Args:
          term: what to sum.
          bar: [M] float32; negatives with u_i . u_k >= bar_i are counted. None: nothing is.
          largest_logit: an upper bound of |u_i . u_k|.
        """
        self._term, self._bar, self._largest_logit = term, bar, largest_logit

    def forward(self, u, others):
        form = _form(u.shape[0], self._largest_logit, self._term.largest_logit)
        result, reaching = form.forward(self._term, u, others, self._bar)
        return Outcome(result, [result], reaching)

    def backward(self, u, others, mine, theirs):
        form = _form(u.shape[0], self._largest_logit, self._term.largest_logit)
        return form.backward(self._term, u, others, mine, theirs)


def is_large(rows: int | None) -> bool:
    """Whether a replica's matrix of logits is too large to hold; its size must be static."""
    return rows is not None and rows * rows * num_replicas() >= _STREAM_FROM


def _form(rows: int | None, largest_logit: float, limit: float):
    """Tiles for large matrices; they need a size known in advance, and values that fit."""
    return streaming if is_large(rows) and largest_logit <= limit else dense
