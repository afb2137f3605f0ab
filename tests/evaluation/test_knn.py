"""The nearest-neighbour vote against a brute-force loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tf_simclr.errors import UserError
from tf_simclr.evaluation import knn


def brute_force(train_h, train_y, test_h, k, temperature):
    def cosine(a, b):
        return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))

    winners = []
    for h in test_h:
        ranked = sorted(range(len(train_h)), key=lambda i: -cosine(h, train_h[i]))[:k]
        votes = {}
        for i in ranked:
            weight = math.exp(cosine(h, train_h[i]) / temperature)
            votes[train_y[i]] = votes.get(train_y[i], 0.0) + weight
        winners.append(max(votes, key=votes.get))
    return winners


@pytest.mark.parametrize("k", [1, 3, 10, 40, 1000])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_brute_force_in_any_chunks(k, temperature, monkeypatch):
    rng = np.random.default_rng(k)
    train_h, test_h = rng.normal(size=(40, 5)), rng.normal(size=(23, 5))
    train_y = rng.integers(0, 4, 40)
    monkeypatch.setattr(knn, "_CHUNK", 7)
    got = knn.knn_classify(train_h, train_y, test_h, k=k, temperature=temperature)
    assert list(got) == brute_force(train_h, train_y, test_h, min(k, 40), temperature)


def test_a_low_temperature_does_not_overflow():
    h = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert knn.knn_accuracy(h, [0, 1], h, [0, 1], k=2, temperature=1e-4) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 0}, "k must be at least 1; received 0"), ({"temperature": 0}, "temperature must be")],
)
def test_bad_arguments_are_named(options, message):
    h = np.ones([3, 2])
    with pytest.raises(UserError, match=message):
        knn.knn_classify(h, np.zeros(3, int), h, **options)
    with pytest.raises(UserError, match=r"test \(3, 1\)"):
        knn.knn_classify(h, np.zeros(3, int), h[:, :1])
