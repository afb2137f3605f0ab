"""The nearest-neighbour vote against a brute-force loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tf_simclr.errors import UserError
from tf_simclr.evaluation import knn, neighbors


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
@pytest.mark.parametrize("budget", [1, 7 * 40, 2**26])
def test_equals_brute_force_in_any_chunks(k, temperature, budget, monkeypatch):
    rng = np.random.default_rng(k)
    train_h, test_h = rng.normal(size=(40, 5)), rng.normal(size=(23, 5))
    train_y = rng.integers(0, 4, 40)
    monkeypatch.setattr(neighbors, "_MOST_SIMILARITIES", budget)
    got = knn.knn_classify(train_h, train_y, test_h, k=k, temperature=temperature)
    assert list(got) == brute_force(train_h, train_y, test_h, min(k, 40), temperature)


def test_near_neighbours_outweigh_many_far_ones():
    # One key at cosine 1 and four of another class at cosine 0: exp(1 / 0.07) > 4, but at a high
    # temperature all votes count the same.
    train_h = np.array([[1.0, 0.0], [0, 1], [0, 1], [0, -1], [0, -1]])
    train_y, test_h = np.array([3, 1, 1, 1, 1]), np.array([[5.0, 0.0]])
    assert knn.knn_classify(train_h, train_y, test_h).tolist() == [3]
    assert knn.knn_classify(train_h, train_y, test_h, temperature=100.0).tolist() == [1]


def test_length_does_not_matter_and_integers_are_features():
    rng = np.random.default_rng(0)
    h, y = rng.integers(-9, 9, size=(50, 6)), rng.integers(0, 3, 50)
    other = rng.integers(-9, 9, size=(20, 6))
    scaled = knn.knn_classify(0.1 * h, y, other * rng.uniform(1, 9, [20, 1]), k=5)
    np.testing.assert_array_equal(knn.knn_classify(h, y, other, k=5), scaled)


def test_accuracy_is_the_share_that_is_right():
    h = np.eye(4)
    assert knn.knn_accuracy(h, [0, 1, 2, 3], h, [0, 1, 3, 2], k=1) == 0.5
    assert knn.knn_accuracy(h, [0, 1, 2, 3], h, [0, 1, 2, 9], k=1) == 0.75


def test_a_low_temperature_does_not_overflow():
    h = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert knn.knn_accuracy(h, [0, 1], h, [0, 1], k=2, temperature=1e-4) == 1.0


def test_a_feature_of_zeros_is_like_nothing():
    assert knn.knn_classify(np.eye(2), [0, 1], np.zeros([1, 2]), k=2).tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be at least 1; received 0"),
        ({"temperature": 0}, "temperature must be positive; received 0"),
        ({"temperature": math.nan}, "temperature must be positive; received nan"),
        ({"test_h": np.ones([3, 1])}, r"same number of features; received \(3, 2\) and \(3, 1\)"),
        ({"test_h": np.ones([0, 2])}, r"test_h must be .* received \(0, 2\)"),
        ({"train_h": np.ones(3)}, r"train_h must be \[examples, features\].*received \(3,\)"),
        ({"train_h": np.array([["a"]])}, "train_h must be numbers; received dtype <U1"),
        (
            {"train_h": [[1, 1], [np.nan, 1], [np.inf, 1]]},
            "train_h must be finite; 2 of 3 rows received are not, the first is row 1",
        ),
        ({"train_y": [0, 1]}, r"train_y must be \[3\], one a row; received shape \(2,\)"),
        ({"train_y": [0.0, 1.0, 2.0]}, "train_y must be integers; received dtype float64"),
        ({"train_y": [0, 1, -1]}, "train_y must be classes from 0; received -1"),
        ({"test_y": [0, 1]}, r"test_y must be \[3\]"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    good = {"train_h": np.ones([3, 2]), "train_y": np.zeros(3, int)}
    good.update(test_h=np.ones([3, 2]), test_y=np.zeros(3, int))
    with pytest.raises(UserError, match=message):
        knn.knn_accuracy(**{**good, **arguments})


@pytest.mark.parametrize(
    ("images", "classes", "k"),
    [
        (50_000, 10, 200),  # CIFAR-10, CIFAR-100 and ImageNet, as in the literature.
        (50_000, 100, 200),
        (1_281_167, 1000, 200),
        (12_811, 1000, 6),  # 1 % of ImageNet: 13 images per class.
        (450, 10, 21),
        (45, 10, 2),
        (5, 5, 1),
        (1, 1, 1),
    ],
)
def test_the_default_number_of_neighbours(images, classes, k):
    assert knn.default_k(np.arange(images) % classes) == k


def test_the_default_number_of_neighbours_votes_well_on_small_sets():
    from sklearn.datasets import load_digits

    h, y = load_digits(return_X_y=True)
    train, test = slice(0, 450), slice(450, None)
    accuracy = {
        k: knn.knn_accuracy(h[train], y[train], h[test], y[test], k=k)
        for k in (200, knn.default_k(y[train]))
    }
    assert accuracy[knn.default_k(y[train])] > accuracy[200] + 0.005
