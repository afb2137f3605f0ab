"""Linear evaluation: learns linear classes, without using test labels, alike for all features."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from tf_simclr.errors import UserError
from tf_simclr.evaluation import linear_probe as linear_probe_module
from tf_simclr.evaluation.linear_probe import few_label_accuracy, linear_probe


def blobs(spread, seed=0, n=300, classes=3, dim=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * 3
    return centres[y] + spread * rng.normal(size=(n, dim)), y


def oracle_logits(h, y, l2, test_h):
    """Multinomial logistic regression from its definition: sum of losses + l2 / 2 |W|^2."""
    classes = y.max() + 1
    truth = np.eye(classes)[y]

    def objective(flat):
        weights = flat.reshape(h.shape[1] + 1, classes)
        logits = h @ weights[:-1] + weights[-1]
        top = logits.max(axis=1, keepdims=True)
        log_sum = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        loss = (log_sum[:, 0] - (logits * truth).sum(axis=1)).sum()
        error = np.exp(logits - log_sum) - truth
        gradient = np.vstack([h.T @ error + l2 * weights[:-1], error.sum(axis=0)])
        return loss + l2 / 2 * (weights[:-1] ** 2).sum(), gradient.ravel()

    start = np.zeros((h.shape[1] + 1) * classes)
    options = {"gtol": 1e-9, "maxiter": 20000}
    weights = minimize(objective, start, jac=True, method="BFGS", options=options).x
    weights = weights.reshape(h.shape[1] + 1, classes)
    return test_h @ weights[:-1] + weights[-1]


@pytest.mark.parametrize("l2", [1e-1, 1.0, 100.0])
def test_the_classifier_is_the_optimum_of_its_definition(l2):
    (h, y), (test_h, _) = blobs(3.0, n=90), blobs(3.0, seed=1, n=40)
    model, unconverged = linear_probe_module._fit(linear_probe_module._model(l2), h, y)
    logits = oracle_logits(h, y, l2, test_h)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(test_h), expected, atol=2e-3)
    assert unconverged == 0


def test_l2_stands_beside_the_sum_of_the_losses():
    # Classes at +1 and -1: the weight solves l2 w = 2 / (1 + e^w).
    l2 = 0.3
    model, _ = linear_probe_module._fit(
        linear_probe_module._model(l2), np.array([[1.0], [-1.0]]), np.array([1, 0])
    )
    root = brentq(lambda w: l2 * w - 2 / (1 + math.exp(w)), 0, 50)
    assert model.coef_[0, 0] == pytest.approx(root, rel=1e-3)


def test_the_sweep_finds_what_separate_fits_find():
    h, y = blobs(4.0, n=200)
    fitting, held_out = (h[:150], y[:150]), (h[150:], y[150:])
    scores = []
    for l2 in np.logspace(-6, 5, 12):
        predicted = oracle_logits(*fitting, l2, held_out[0]).argmax(axis=1)
        scores.append((np.mean(predicted == held_out[1]), l2))
    l2, top1, unconverged = linear_probe_module._best_l2(fitting, held_out, 12)
    assert (top1, l2) == pytest.approx(max(scores)) and unconverged == 0


def test_separable_classes_are_separated():
    result = linear_probe(*blobs(0.1), *blobs(0.1, seed=1), num_l2=5)
    assert result["top1"] == 1.0 and result["validation_top1"] == 1.0


def test_noise_is_noise():
    rng = np.random.default_rng(0)
    h, y = rng.normal(size=(400, 20)), rng.integers(0, 4, 400)
    other, truth = rng.normal(size=(400, 20)), rng.integers(0, 4, 400)
    assert 0.15 < linear_probe(h, y, other, truth, num_l2=5)["top1"] < 0.35


def test_the_sweep_picks_what_validation_prefers():
    # 200 useless features and 60 examples: the strong end of the sweep must win.
    rng = np.random.default_rng(1)
    h, y = blobs(1.5, n=60)
    h = np.concatenate([h, rng.normal(size=(60, 200))], axis=1)
    test_h, test_y = blobs(1.5, seed=2)
    test_h = np.concatenate([test_h, rng.normal(size=(300, 200))], axis=1)
    result = linear_probe(h, y, test_h, test_y, num_l2=12, validation_fraction=0.3)
    assert result["l2"] > 1e-3
    assert np.isclose(np.logspace(-6, 5, 12), result["l2"]).any()


def test_the_test_set_decides_nothing():
    (h, y), (test_h, test_y) = blobs(3.0), blobs(3.0, seed=1)
    result = linear_probe(h, y, test_h, test_y, num_l2=5)
    other = linear_probe(h, y, 9 - test_h, (test_y + 1) % 3, num_l2=5)
    assert {**result, "top1": 0} == {**other, "top1": 0}
    assert linear_probe(h, y, test_h, test_y, num_l2=5) == result
    held = {linear_probe(h, y, test_h, test_y, num_l2=5, seed=s)["validation_top1"] for s in (0, 1)}
    assert len(held) == 2


def test_a_class_only_the_test_set_has_counts_as_wrong():
    (h, y), (test_h, test_y) = blobs(0.1), blobs(0.1, seed=1)
    test_y[:30] = 7
    assert linear_probe(h, y, test_h, test_y, num_l2=3)["top1"] == pytest.approx(0.9)


def test_dead_and_constant_features_do_no_harm():
    (h, y), (test_h, test_y) = blobs(0.1), blobs(0.1, seed=1)
    dead = [np.zeros([300, 2]), np.full([300, 1], 1e6 / 3)]
    h, test_h = (np.concatenate([x, *dead], axis=1).astype(np.float32) for x in (h, test_h))
    assert linear_probe(h, y, test_h, test_y, num_l2=3)["top1"] == 1.0
    tiny = linear_probe(1e-12 * h[:, :4], y, 1e-12 * test_h[:, :4], test_y, num_l2=3)
    assert tiny["top1"] == 1.0


def test_fits_that_stop_early_are_counted_and_not_shouted(monkeypatch):
    monkeypatch.setattr(linear_probe_module, "_MAX_ITERATIONS", 1)
    options = {"labels_per_class": (5, None), "draws": 4, "num_l2": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few, every = few_label_accuracy(*blobs(3.0), *blobs(3.0, seed=1), **options)
    assert few["unconverged"] == 4
    assert every["unconverged"] == 1 and every["sweep_unconverged"] >= 2


def test_scale_and_offset_of_features_do_not_matter():
    (h, y), (test_h, test_y) = blobs(2.0), blobs(2.0, seed=1)
    a = few_label_accuracy(h, y, test_h, test_y, draws=3, num_l2=4)
    b = few_label_accuracy(100 * h + 7, y, 100 * test_h + 7, test_y, draws=3, num_l2=4)
    for one, other in zip(a, b):
        assert one["mean"] == pytest.approx(other["mean"], abs=1e-6)


def test_more_labels_help_and_rows_say_what_they_are():
    rows = few_label_accuracy(*blobs(2.0), *blobs(2.0, seed=1), num_l2=4)
    assert [row["labels_per_class"] for row in rows] == [1, 5, 10, "all"]
    assert [row["draws"] for row in rows] == [20, 20, 20, 1]
    means = [row["mean"] for row in rows]
    assert means[0] < means[1] < means[3] + 0.05 and rows[0]["std"] > 0


def test_draws_depend_on_the_seed_and_not_on_the_features(monkeypatch):
    fit, drawn = linear_probe_module._fit, []
    monkeypatch.setattr(
        linear_probe_module,
        "_fit",
        lambda model, h, y: drawn.append((h[:, 0].tolist(), y.tolist())) or fit(model, h, y),
    )
    y = np.arange(30) % 3
    names = np.arange(30.0)[:, np.newaxis]  # The feature of each example is its index.
    for features, seed in ((names, 0), (2 * names + 5, 0), (names, 1)):
        options = {"labels_per_class": (2,), "draws": 2, "seed": seed}
        few_label_accuracy(features, y, features, y, **options)
    examples = [features for features, _ in drawn]
    one, other, reseeded = examples[:2], examples[2:4], examples[4:]
    np.testing.assert_allclose(one, other)
    assert not np.allclose(one[0], one[1]) and not np.allclose(one, reseeded)
    for features, labels in drawn:
        assert len(set(features)) == 6 and np.bincount(labels).tolist() == [2, 2, 2]


def test_the_same_call_gives_the_same_rows():
    calls = [few_label_accuracy(*blobs(3.0), *blobs(3.0, seed=1), num_l2=3) for _ in range(2)]
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": (1000,)}, r"labels_per_class must lie in \[1, .*received 1000"),
        ({"labels_per_class": (0,)}, "received 0"),
        ({"draws": 0}, "draws must be at least 1; received 0"),
        ({"num_l2": 0}, "num_l2 must be at least 1; received 0"),
        ({"train_h": np.full([300, 4], np.nan)}, "train_h must be finite; 300 of 300 rows"),
        ({"test_h": np.ones([300, 3])}, r"received \(300, 4\) and \(300, 3\)"),
        ({"train_y": np.zeros(300, int)}, "train_y must hold at least two classes; received 1"),
        ({"test_y": np.zeros(2, int)}, r"test_y must be \[300\]"),
    ],
)
def test_bad_arguments_are_named(options, message):
    good = dict(zip(("train_h", "train_y", "test_h", "test_y"), (*blobs(1.0), *blobs(1.0, 1))))
    with pytest.raises(UserError, match=message):
        few_label_accuracy(**{**good, **options})


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_the_validation_part_is_a_part(fraction):
    with pytest.raises(UserError, match="validation_fraction must lie in .* received"):
        linear_probe(*blobs(1.0), *blobs(1.0, seed=1), validation_fraction=fraction)


def test_classes_must_be_left_beside_the_validation_part():
    h = np.arange(3.0)[:, np.newaxis]
    with pytest.raises(UserError, match="train_y .* received 3 labels of 2 class"):
        linear_probe(h, np.array([0, 1, 1]), h, np.array([0, 1, 1]), validation_fraction=0.7)


def test_real_digits():
    from sklearn.datasets import load_digits

    h, y = load_digits(return_X_y=True)
    one, five, ten, every = few_label_accuracy(h[:1297], y[:1297], h[1297:], y[1297:])
    assert 0.4 < one["mean"] < five["mean"] < ten["mean"] < every["mean"]
    assert 0.88 < every["mean"] < 0.99 and every["unconverged"] == 0
