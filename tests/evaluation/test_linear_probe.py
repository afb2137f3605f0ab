"""Linear evaluation: finds what is linear, honestly, and the same way for every feature set."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import metrics as oracle
from tf_simclr.errors import UserError
from tf_simclr.evaluation import linear_probe as linear_probe_module
from tf_simclr.evaluation.diagnostics import effective_rank
from tf_simclr.evaluation.linear_probe import few_label_accuracy, linear_probe


def blobs(spread, seed=0, n=300, classes=3, dim=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * 3
    return centres[y] + spread * rng.normal(size=(n, dim)), y


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
        lambda h, y, l2: drawn.append(h[:, 0].tolist()) or fit(h, y, l2),
    )
    y = np.arange(30) % 3
    names = np.arange(30.0)[:, np.newaxis]  # Each example's feature says which one it is.
    for features, seed in ((names, 0), (2 * names + 5, 0), (names, 1)):
        options = {"labels_per_class": (2,), "draws": 2, "seed": seed}
        few_label_accuracy(features, y, features, y, **options)
    one, other, reseeded = drawn[:2], drawn[2:4], drawn[4:]
    np.testing.assert_allclose(one, other)
    assert not np.allclose(one[0], one[1]) and not np.allclose(one, reseeded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": (1000,)}, r"labels_per_class must lie in \[1, .*received 1000"),
        ({"labels_per_class": (0,)}, "received 0"),
        ({"draws": 0}, "draws must be at least 1; received 0"),
        ({"labels_per_class": (None,), "num_l2": 0}, "num_l2 must be at least 1; received 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(UserError, match=message):
        few_label_accuracy(*blobs(1.0), *blobs(1.0, seed=1), **options)
    with pytest.raises(UserError, match=r"features must be \[N, D\]"):
        linear_probe(np.ones([4, 2]), np.arange(4), np.ones([4, 3]), np.arange(4))


def test_effective_rank():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(200, 6))
    assert effective_rank(h) == pytest.approx(oracle.effective_rank(h - h.mean(axis=0)), rel=1e-6)
    assert effective_rank(np.ones([10, 4])) == 1.0
    assert effective_rank(np.outer(rng.normal(size=50), np.ones(4))) == pytest.approx(1.0)
    assert effective_rank(rng.normal(size=(20000, 4))) == pytest.approx(4.0, rel=0.01)
