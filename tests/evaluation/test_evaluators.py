"""Evaluators: settings, features and labels in, named numbers out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tf_simclr.errors import UserError
from tf_simclr.evaluation.evaluators import KNN, Evaluator, LinearProbe, scalars
from tf_simclr.evaluation.labelled import Labelled


def split(labels, h=None, name="train"):
    names = tuple(f"class {i}" for i in range(max(labels) + 1))
    return Labelled(np.array(labels), names, name, h)


def clusters(count, seed):
    """(labels, features) of two distant clusters of `count` points, labelled 0 and 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * count) % 2
    h = rng.normal(size=[2 * count, 3]) + 20.0 * labels[:, None] * [1, 0, 0] + [1, 5, 0]
    return labels, h.astype(np.float32)


TRAIN, TEST = (split(*clusters(20, seed)) for seed in (0, 1))


def test_both_find_what_is_easily_told_apart():
    for evaluator in (KNN(), LinearProbe((1, None), draws=2, num_l2=1)):
        prepared = evaluator.prepare(TRAIN, TEST)
        assert prepared.evaluate(TRAIN, TEST)["top1"] == 1.0
        # The test split with all labels swapped.
        wrong = dataclasses.replace(TEST, labels=1 - TEST.labels)
        assert prepared.evaluate(TRAIN, wrong)["top1"] == 0.0


def test_knn_decides_its_k_by_the_labels_alone():
    train = split([0] * 225 + [1] * 225)
    assert KNN().prepare(train, train) == KNN(21, 0.07, ", by the size of train: 450 images")
    assert KNN(5, 0.1).prepare(train, train) == KNN(5, 0.1)
    assert KNN(500).prepare(train, train).k == 450


def test_the_probe_leaves_out_default_counts_and_refuses_others():
    train = split([0] * 7 + [1] * 30)
    assert LinearProbe().prepare(train, train).labels_per_class == (1, 5, None)
    with pytest.raises(UserError, match="--labels_per_class=10,all cannot be met: class 'class 0'"):
        LinearProbe((10, None)).prepare(train, train)
    with pytest.raises(UserError, match="--train_split=train is not enough.*two classes"):
        LinearProbe().prepare(split([0] * 30), train)


def test_summaries_are_what_the_report_reads():
    numbers = {"trained encoder": {"top1": 0.5}, "raw pixels": {"top1": 0.25}}
    kept = KNN(3).summary(numbers)
    assert kept == {"k": 3, "top1": {"trained encoder": 0.5, "raw pixels": 0.25}}
    rows = [{"labels_per_class": "all", "mean": 0.5}]
    kept = LinearProbe().summary({"trained encoder": {"top1": 0.5, "few_label": rows}})
    assert kept == {"few_label": [{"features": "trained encoder", **rows[0]}]}


class Nearest(Evaluator):
    """A toy evaluator: predicts the class with the nearest mean."""

    name = "toy"

    def evaluate(self, train, test):
        means = np.stack([train.h[train.labels == label].mean(axis=0) for label in (0, 1)])
        distances = np.linalg.norm(test.h[:, None] - means, axis=2)
        return {"top1": np.mean(distances.argmin(axis=1) == test.labels), "rows": [], "ok": True}


def test_a_toy_needs_one_class():
    toy = Nearest().prepare(TRAIN, TEST)
    numbers = toy.evaluate(TRAIN, TEST)
    assert scalars(toy, numbers) == {"toy_top1": 1.0}
    assert toy.summary({"x": numbers}) == {"features": {"x": numbers}}
