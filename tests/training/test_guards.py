"""Collapse and divergence are told from their metrics; healthy runs are left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.small_runs import lines, run
from tf_simclr.errors import UserError
from tf_simclr.training import guards
from tf_simclr.training.guards import LINES, Guard, diagnose

CHANCE = 4.14


def metrics(loss, std=0.9, rank=20.0):
    values = zip(loss, np.broadcast_to(std, len(loss)), np.broadcast_to(rank, len(loss)))
    return [
        {"step": 10 * (i + 1), "loss": a, "embedding_std": b, "effective_rank": c}
        for i, (a, b, c) in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("history", "what", "since"),
    [
        (metrics([4.1] * 5, [0.9, 0.5, 0.01, 0.01, 0.001]), "collapsed to a point", 30),
        (metrics([4.1] * 4, 0.9, [9.0, 1.01, 1.02, 1.0]), "collapsed to a line", 20),
        (metrics([4.0, 2.0, 1.0, 6.0, 7.0, 8.0]), "diverges: it is 8.000, after 1.000", 40),
    ],
)
def test_trouble_is_told(history, what, since):
    trouble = diagnose(history, CHANCE, largest_rank=63)
    assert what in trouble.what and trouble.since == since
    assert diagnose(history[:-1], CHANCE, largest_rank=63) is None  # Not before it lasts.


@pytest.mark.parametrize(
    "history",
    [
        metrics([9.5, 8.0, 9.0, 7.5, 7.9]),  # A start far above chance.
        metrics([4.2, 4.1, 4.15, 4.14, 4.5, 4.5, 4.5]),
        metrics([2.0, 1.0, 7.0, 1.5, 8.0, 7.0]),  # Not in a row.
        metrics([3.0] * 4, [0.01, 0.01, 0.5, 0.01]),
        metrics([1.0, 0.3, 1.6, 1.7, 1.8]),  # Worse than it was, but far from knowing nothing.
        [{"step": i, "loss": 2.0} for i in range(1, 6)],  # Fine-tuning has no embeddings.
    ],
)
def test_health_is_not_trouble(history):
    for end in range(len(history) + 1):
        assert diagnose(history[:end], CHANCE, largest_rank=63) is None


def test_few_rows_say_nothing_of_the_rank():
    assert diagnose(metrics([4.1] * 5, 0.9, 1.0), CHANCE, largest_rank=1) is None


def test_divergence_is_told_without_a_level_of_chance():
    trouble = diagnose(metrics([4.0, 2.0, 1.0, 6.0, 7.0, 8.0]), -math.inf)
    assert trouble.what.endswith("it is 8.000, after 1.000, and has been above 4.500")


class Saved:
    def newest(self, before=None):
        return f"ckpt-{before}"


def test_a_guard_stops_with_the_last_good_checkpoint_or_warns_once(monkeypatch):
    bad = metrics([4.1] * 5, [0.9, 0.9, 0.01, 0.01, 0.01])
    guard = Guard(bad[:3], Saved(), CHANCE, "stop", 63)
    guard.check(bad[3])
    with pytest.raises(UserError, match="collapsed to a point.*from then: ckpt-30.*--init_from"):
        guard.check(bad[4])
    warnings = []
    monkeypatch.setattr(guards.logging, "warning", lambda *words: warnings.append(words))
    guard = Guard([], Saved(), CHANCE, "warn", 63)
    for line in bad * 2:
        guard.check(line)
    assert len(warnings) == 1 and "collapsed" in warnings[0][1]
    assert LINES == 3


def test_a_collapsed_run_stops_and_names_what_to_do(tmp_path, monkeypatch):
    from tf_simclr.models import heads

    # Whatever goes in, the same comes out: the projection head of a dead network.
    call = heads.ProjectionHead.call
    monkeypatch.setattr(
        heads.ProjectionHead,
        "call",
        lambda self, h, training=False: call(self, h, training=training) * 0.0 + 1.0,
    )
    with pytest.raises(UserError, match="collapsed to a point.*ckpt-2.*--on_trouble=warn"):
        run(tmp_path / "w", train_steps=20, checkpoint_steps=2)
    assert [line["step"] for line in lines(tmp_path / "w")] == [2, 4, 6]
    assert all(line["effective_rank"] == 1.0 for line in lines(tmp_path / "w"))


def test_effective_rank_is_the_participation_ratio():
    from tf_simclr.losses import effective_rank

    rng = np.random.default_rng(0)
    for n, d in ((40, 8), (6, 30), (2, 5)):
        z = rng.normal(size=[n, d]) * np.linspace(0.1, 2, d)
        unit = z / np.linalg.norm(z, axis=1, keepdims=True)
        eigenvalues = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False) ** 2
        expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
        for compiled in (False, True):
            f = tf.function(effective_rank, jit_compile=compiled)
            np.testing.assert_allclose(f(tf.constant(z, tf.float32)), expected, rtol=1e-4)
    line = np.outer(rng.choice([-1.0, 1.0], 50), rng.normal(size=7))
    np.testing.assert_allclose(effective_rank(tf.constant(line, tf.float32)), 1.0, rtol=1e-5)
    assert float(effective_rank(tf.ones([5, 3]))) == 1.0
