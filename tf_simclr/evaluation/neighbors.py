"""Exact nearest neighbours by cosine similarity, a block of queries at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tf_simclr.errors import UserError
from tf_simclr.evaluation.labelled import checked_features
from tf_simclr.evaluation.progress import reported

# Similarities in memory at a time: 256 MiB as float32, and about 1 GB with the ranking's arrays.
_MOST_SIMILARITIES = 2**26


def nearest(queries: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k keys most similar to each query, most similar first.

    Keys of equal similarity are ordered by index, lower first. Memory beyond the arguments and the
    result is bounded for any M and N.

    Args:
      queries: [M, D] float features of any norm; a vector of zeros has similarity 0 to all keys.
      keys: [N, D] float features.
      k: number of keys; at most N are returned.

    Returns:
      (indices int64 [M, k] into `keys`, their cosine similarities float [M, k] in [-1, 1]).

    Raises:
      UserError: k is below 1, or features do not fit or are not finite.
    """
    queries, keys = checked_features(queries, keys, ("queries", "keys"))
    blocks = [(indices, similarities) for _, indices, similarities in blocks_of(queries, keys, k)]
    indices, similarities = (np.concatenate(part) for part in zip(*blocks))
    return indices, similarities


def blocks_of(
    queries: np.ndarray, keys: np.ndarray, k: int, row_cost: int = 1
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """As `nearest`, but for checked features, and one block of queries at a time.

    Args:
      queries, keys, k: as in `nearest`.
      row_cost: numbers that the caller keeps per query. The larger of `row_cost` and N limits the
        number of queries in a block.

    Yields:
      (slice of the queries, their indices, their similarities).
    """
    if not k >= 1:
        raise UserError(f"k must be at least 1; received {k!r}.")
    keys, k = _unit(keys), min(int(k), len(keys))
    rows = max(_MOST_SIMILARITIES // max(len(keys), row_cost), 1)
    starts = range(0, len(queries), rows)
    for start in reported(starts, len(starts), "nearest neighbours"):
        block = slice(start, min(start + rows, len(queries)))
        yield (block, *_ranked(_unit(queries[block]) @ keys.T, k))


def _ranked(similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of each row as (columns, values), largest first; ties by lower column."""
    count = similarity.shape[1]
    chosen = np.argpartition(similarity, count - k, axis=1)[:, count - k :]
    values = np.take_along_axis(similarity, chosen, axis=1)
    # If more columns equal the k-th largest value than fit, argpartition takes any of them.
    last = values.min(axis=1, keepdims=True)
    crowded = np.flatnonzero((similarity == last).sum(axis=1) > (values == last).sum(axis=1))
    for row in crowded:
        chosen[row] = np.argsort(-similarity[row], kind="stable")[:k]
    values = np.take_along_axis(similarity, chosen, axis=1)
    order = np.lexsort((chosen, -values), axis=1)
    return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(values, order, axis=1)


def _unit(h: np.ndarray) -> np.ndarray:
    return h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
