"""The evaluation modes check the labels before they compute features."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import tasks
from tf_simclr.config import Config
from tf_simclr.data.sources import array_source
from tf_simclr.errors import UserError
from tf_simclr.tasks import evaluate
from tf_simclr.workdir import read_results


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """Runs a mode on given labels with random features; None: none may be computed."""

    def run(mode, train, test=(0, 1), features=4, **settings):
        names = [f"class {i}" for i in range(max(*train, *test) + 1)]

        def source_of(config, split):
            labels = np.array(train if split == "train" else test)
            images = np.zeros([len(labels), 4, 4, 1], np.uint8)
            return array_source(images, labels, names, name="made up", split=split)

        def feature_sets(config, strategy, sources):
            assert features, "the features were computed first"
            rng = np.random.default_rng(0)
            yield evaluate.TRAINED, [rng.normal(size=[s.num_examples, features]) for s in sources]

        monkeypatch.setattr(evaluate.inputs, "source_of", source_of)
        monkeypatch.setattr(evaluate, "feature_sets", feature_sets)
        monkeypatch.setattr(evaluate, "write_report", lambda _: None)
        options = {"label_draws": 1, "l2_sweep": 1, **settings}
        config = Config(mode=mode, workdir=str(tmp_path / "w"), **options)
        tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))
        return read_results(str(tmp_path / "w"))[mode]

    return run


def labels(*sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(
    ("sizes", "left"),
    [((7, 30), [1, 5, "all"]), ((4, 30), [1, "all"]), ((10, 12), [1, 5, 10, "all"])],
)
def test_of_the_default_counts_only_those_that_every_class_has(sizes, left, judge, caplog):
    rows = judge("linear_eval", labels(*sizes))["few_label"]
    assert [row["labels_per_class"] for row in rows] == left
    said = "class 'class 0' has only" in caplog.text
    assert said == (len(left) < 4)


@pytest.mark.parametrize(
    ("sizes", "asked", "message"),
    [
        (
            (7, 30),
            "1,10",
            "--labels_per_class=1,10 cannot be met: class 'class 0' has only 7 image",
        ),
        ((30, 2, 30), "5", "--labels_per_class=5 .* class 'class 1' has only 2 .*at most 2"),
        ((30,), "1,5,10,all", "--train_split=train is not enough.*at least two classes"),
        ((30,), "all", "--train_split=train is not enough.*at least two classes"),
        ((1, 1), "all", "--train_split=train is not enough.*outside the validation part"),
    ],
)
def test_what_cannot_be_met_is_refused_before_the_features(sizes, asked, message, judge):
    with pytest.raises(UserError, match=message):
        judge("linear_eval", labels(*sizes), features=None, labels_per_class=asked)


@pytest.mark.parametrize("mode", ["linear_eval", "knn_eval"])
def test_a_class_without_training_images_is_named(mode, judge, caplog):
    judge(mode, labels(20, 0, 20), test=[0, 1, 1, 2])
    assert "1 class(es) are in test only, so their images always count as wrong: class 1." in (
        caplog.text
    )


def test_the_number_of_neighbours_follows_the_size(judge, capsys, caplog):
    assert judge("knn_eval", labels(*10 * [45]))["k"] == 21
    assert "kNN (k = 21, by the size of train: 450 images)" in capsys.readouterr().out
    assert "neighbours of its" not in caplog.text


@pytest.mark.parametrize(("k", "used"), [(200, 49), (49, 49), (50, 49)])
def test_more_neighbours_than_images_are_said(k, used, judge, capsys, caplog):
    assert judge("knn_eval", labels(25, 24), knn_k=k)["k"] == used
    said = capsys.readouterr().out
    more = f", all of train: --knn_k={k} is more than it has" if k > used else ""
    assert f"kNN (k = {used}{more}), 2 images" in said
    assert f"k = {used} is more than the 24 images that class class 1 has in train" in caplog.text


def test_a_k_that_is_set_is_kept(judge, capsys, caplog):
    assert judge("knn_eval", labels(25, 24), knn_k=24)["k"] == 24
    assert (
        "kNN (k = 24), 2 images" in capsys.readouterr().out
        and "neighbours of its" not in caplog.text
    )
