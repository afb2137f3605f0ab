"""The nearest-neighbour search, compared with a full sort."""

from __future__ import annotations

import numpy as np
import pytest

from tf_simclr.errors import UserError
from tf_simclr.evaluation import neighbors


@pytest.mark.parametrize("k", [1, 4, 29, 30, 99])
@pytest.mark.parametrize("budget", [1, 5 * 30, 2**26])
def test_equals_a_full_sort_in_any_blocks(k, budget, monkeypatch):
    rng = np.random.default_rng(k)
    keys, queries = rng.normal(size=(30, 6)), rng.normal(size=(17, 6))
    monkeypatch.setattr(neighbors, "_MOST_SIMILARITIES", budget)
    indices, similarities = neighbors.nearest(queries, keys, k)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(keys, axis=1)
    cosine = queries @ keys.T / lengths
    expected = np.argsort(-cosine, axis=1)[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(similarities, np.take_along_axis(cosine, expected, 1), atol=1e-12)
    assert indices.shape == (17, min(k, 30)) and indices.dtype == np.int64


@pytest.mark.parametrize("k", range(1, 9))
def test_of_equal_similarities_the_lower_index_comes_first(k):
    # Axis-aligned keys: every similarity is exactly 0 or 1.
    keys = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 0, 1, 0, 2]]
    indices, similarities = neighbors.nearest(np.eye(3, dtype=np.float32)[[0, 1]], keys, k)
    order = [[0, 2, 4, 6, 1, 3, 5, 7], [1, 5, 0, 2, 3, 4, 6, 7]]
    np.testing.assert_array_equal(indices, np.array(order)[:, :k])
    np.testing.assert_array_equal(
        similarities, np.array([[1] * 4 + [0] * 4, [1] * 2 + [0] * 6])[:, :k]
    )


@pytest.mark.parametrize(
    ("queries", "keys", "k", "message"),
    [
        (np.ones([2, 3]), np.ones([4, 3]), 0, "k must be at least 1; received 0"),
        (np.ones([2, 3]), np.ones([4, 2]), 1, r"queries and keys must .* \(2, 3\) and \(4, 2\)"),
        (np.full([2, 3], np.nan), np.ones([4, 3]), 1, "queries must be finite; 2 of 2"),
        (np.ones([2, 3]), np.ones([0, 3]), 1, r"keys must be .* received \(0, 3\)"),
    ],
)
def test_bad_arguments_are_named(queries, keys, k, message):
    with pytest.raises(UserError, match=message):
        neighbors.nearest(queries, keys, k)
