"""Effective rank against an oracle and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import metrics as oracle
from tf_simclr.errors import UserError
from tf_simclr.evaluation.diagnostics import effective_rank


@pytest.mark.parametrize("shape", [(200, 6), (6, 200), (7, 7), (2, 1)])
def test_equals_the_oracle(shape):
    h = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 3, shape[1])
    expected = oracle.effective_rank(h - h.mean(axis=0))
    assert effective_rank(h) == pytest.approx(expected, rel=1e-6)
    assert effective_rank(h.astype(np.float32)) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(1e3 * h + 7) == pytest.approx(expected, rel=1e-6)


def test_collapse_is_one_and_a_sphere_is_all_dimensions():
    rng = np.random.default_rng(0)
    assert effective_rank(np.full([10, 4], 0.1, np.float32)) == 1.0
    assert effective_rank(np.outer(rng.normal(size=50), np.ones(4))) == pytest.approx(1.0)
    assert effective_rank(rng.normal(size=(20000, 4))) == pytest.approx(4.0, rel=0.01)
    # Three orthogonal directions of the same length: exactly three.
    corners = np.concatenate([np.eye(3), -np.eye(3)])
    assert effective_rank(np.pad(corners, [[0, 0], [0, 5]])) == pytest.approx(3.0)


@pytest.mark.parametrize("h", [np.ones([1, 4]), np.ones(4), np.ones([3, 0]), [[1, np.nan]] * 3])
def test_bad_features_are_refused(h):
    with pytest.raises(UserError, match=r"h must be finite features .* received \("):
        effective_rank(h)
