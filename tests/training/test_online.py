"""Evaluation in the course of training: it changes nothing, and says what knn_eval would say."""

from __future__ import annotations

import functools
import json
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tests.small_runs import SMALL, lines, write_images
from tf_simclr import tasks
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.report import write_report
from tf_simclr.tasks import build, inputs
from tf_simclr.training import loop, online, plan
from tf_simclr.workdir import Workdir, read_results

SPLITS = {"train_split": "train[:320]", "eval_split": "test[:60]"}
FEW = {**SMALL, **SPLITS, "train_batch_size": 16, "knn_k": 5, "warmup_epochs": 0.0}
EVERY = 3 / 20  # Epochs: evaluations at steps 3, 6 and 8; log lines at 2, 4, 6, 8.


def small(config, channels, dropout=0.0):
    """With batch normalisation; dropout draws random numbers while it trains."""
    tf.keras.utils.set_random_seed(config.seed)
    layers = tf.keras.layers
    images = tf.keras.Input([8, 8, channels])
    x = layers.Conv2D(16, 3, 2, name="conv")(images)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dropout(dropout, name="dropout")(layers.Flatten(name="flat")(x))
    return tf.keras.Model(images, layers.Dense(24, name="dense")(x), name="small")


@pytest.fixture(autouse=True)
def small_encoder(monkeypatch, no_export):
    monkeypatch.setattr(build, "encoder_of", small)


def run(workdir, strategy=None, **settings):
    config = Config(workdir=str(workdir), **{**FEW, **settings})
    tasks.run(config, strategy or tf.distribute.OneDeviceStrategy("/cpu:0"))


def weights(workdir):
    return load_encoder_from(str(workdir)).get_weights()


def of_training(workdir):
    """What the lines say of training, without what depends on the clock."""
    timed = ("images_per_second", "data_wait", "knn_top1", "eval_seconds")
    return [
        {name: value for name, value in line.items() if name not in timed}
        for line in lines(workdir)
        if line["step"] % 2 == 0
    ]


def evaluated(workdir):
    return {line["step"]: line["knn_top1"] for line in lines(workdir) if "knn_top1" in line}


@pytest.mark.parametrize("replicas", [1, 2])
def test_training_is_the_same_with_and_without(replicas, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "encoder_of", functools.partial(small, dropout=0.2))
    strategy = mirrored(2) if replicas == 2 else None
    run(tmp_path / "without", strategy, global_bn=False)
    run(tmp_path / "with", strategy, global_bn=False, eval_every_epochs=EVERY)
    assert of_training(tmp_path / "with") == of_training(tmp_path / "without")
    for a, b in zip(weights(tmp_path / "with"), weights(tmp_path / "without")):
        np.testing.assert_array_equal(a, b)
    assert [line["step"] for line in lines(tmp_path / "with")] == [2, 3, 4, 6, 8]
    assert set(evaluated(tmp_path / "with")) == {3, 6, 8}
    assert not (tmp_path / "with" / "features").exists()


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_last_number_is_that_of_knn_eval(replicas, tmp_path):
    """Under two replicas with statistics of their own, of which the mean is exported."""
    strategy = mirrored(2) if replicas == 2 else None
    run(tmp_path, strategy, global_bn=False, eval_every_epochs=EVERY)
    run(tmp_path, mode="knn_eval", baselines=False)
    top1 = read_results(str(tmp_path))["knn_eval"]["top1"]["trained encoder"]
    assert lines(tmp_path)[-1]["knn_top1"] == top1


def test_stopped_and_resumed_is_unbroken(tmp_path, monkeypatch):
    run(tmp_path / "whole", eval_every_epochs=EVERY)
    original = Workdir.log_metrics

    class Stop(Exception):
        pass

    def stop_at_six(self, metrics):
        original(self, metrics)
        if metrics["step"] == 6:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "log_metrics", stop_at_six)
        with pytest.raises(Stop):
            run(tmp_path / "broken", eval_every_epochs=EVERY)
    run(tmp_path / "broken", eval_every_epochs=EVERY)
    assert of_training(tmp_path / "broken") == of_training(tmp_path / "whole")
    assert evaluated(tmp_path / "broken") == evaluated(tmp_path / "whole")
    for a, b in zip(weights(tmp_path / "broken"), weights(tmp_path / "whole")):
        np.testing.assert_array_equal(a, b)


def test_the_numbers_reach_tensorboard_and_the_report(tmp_path, monkeypatch):
    written = set()
    monkeypatch.setattr(tf.summary, "scalar", lambda name, value: written.add(name))
    run(tmp_path, eval_every_epochs=EVERY, steps_per_execution=4)
    assert {"knn_top1", "eval_seconds"} <= written
    assert set(evaluated(tmp_path)) == {3, 6, 8}
    assert all(line["eval_seconds"] > 0 for line in lines(tmp_path) if "knn_top1" in line)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    pages = []
    for kept in (lines(tmp_path), [{**line, "knn_top1": 0.0} for line in lines(tmp_path)]):
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        pages.append(open(write_report(str(tmp_path))).read())
    assert pages[0] != pages[1]  # Another curve.
    path.write_text(text)


def test_another_data_set(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_images(tmp_path / "photos" / split / name, count=4, size=8)
    other = {"eval_dataset": str(tmp_path / "photos")}
    splits = {"train_split": "train", "eval_split": "test"}
    run(tmp_path / "w", **other, **splits, eval_every_epochs=0.2, train_steps=2)
    run(tmp_path / "w", mode="knn_eval", **other, **splits, channels=1, baselines=False)
    top1 = read_results(str(tmp_path / "w"))["knn_eval"]["top1"]["trained encoder"]
    assert evaluated(tmp_path / "w")[2] == top1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_split": "validation"}, "validation"),
        ({"eval_dataset": "digitz"}, "'digitz'"),
        ({"eval_dataset": "folder", "eval_data_dir": "no/such"}, "no/such"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "w", eval_every_epochs=1, **settings)
    assert not (tmp_path / "w").exists()


def test_images_without_labels_are_refused_before_the_first_step(tmp_path):
    write_images(tmp_path / "photos")
    own = {"dataset": str(tmp_path / "photos"), "train_split": "train", "eval_split": "train"}
    with pytest.raises(UserError, match="no labels"):
        run(tmp_path / "w", **own, eval_every_epochs=1, train_batch_size=4, train_steps=1)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("mode", ["knn_eval", "linear_eval", "export", "finetune"])
def test_modes_that_do_not_evaluate_while_training_refuse_it(mode):
    with pytest.raises(UserError, match=f"--mode={mode} takes --eval_every_epochs=0.0 only"):
        Config(mode=mode, workdir="w", init_from="x", eval_every_epochs=1.0)


def test_a_bound_on_the_images_takes_the_same_ones_each_time():
    config = Config(workdir="w", **{**FEW, "eval_every_epochs": 1.0, "eval_max_images": 50})
    first, second = (inputs.online_splits(config, 1) for _ in range(2))
    assert [source.num_examples for source in first] == [50, 50]
    assert [a.fingerprint for a in first] == [b.fingerprint for b in second]


def test_features_that_are_not_finite_are_not_the_evaluations_business(tmp_path, caplog):
    config = Config(workdir=str(tmp_path), **{**FEW, "eval_every_epochs": 1.0})
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        encoder = build.encoder_of(config, 1)
    evaluate = build.online_evaluation(config, strategy, encoder, inputs.online_splits(config, 1))
    assert 0.05 < evaluate()["knn_top1"] <= 1.0
    encoder.set_weights([np.full_like(w, np.nan) for w in encoder.get_weights()])
    assert evaluate() == {} and "not finite" in caplog.text


def test_the_guard_does_not_look_at_lines_that_an_evaluation_brought_about(tmp_path, monkeypatch):
    from tf_simclr.training.guards import Guard

    seen = []
    monkeypatch.setattr(Guard, "check", lambda self, metrics: seen.append(metrics["step"]))
    run(tmp_path, eval_every_epochs=EVERY)
    assert seen == [2, 4, 6, 8]


def test_seconds_of_an_evaluation_are_no_time_of_training(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock.now)
    interval = loop._Interval(types.SimpleNamespace(newest=lambda: ""), 0)
    bar = types.SimpleNamespace(set_description_str=lambda text, refresh: shown.append(text))
    shown = []

    def evaluate():
        assert "evaluating" in shown[-1]
        clock.now += 100.0
        return {"knn_top1": 0.5}

    interval.add(tf.constant([0.0, 0.0, 0.0, 0.0], tf.float64), 4, 4, settle=True)
    clock.now += 2.0
    assert loop._evaluated(evaluate, interval, bar) == {"knn_top1": 0.5, "eval_seconds": 100.0}
    assert interval.rates(batch_size=8)["images_per_second"] == 16.0
    assert shown[-1] == ""


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (1, 10), (0.25, 2), (0.01, 1), (2.5, 25)])
def test_epochs_between_evaluations_are_whole_steps(epochs, steps):
    config = Config(workdir="w", train_batch_size=100, eval_every_epochs=float(epochs))
    assert build.plan_of(config, 1000, replicas=1).eval_steps == steps


def test_an_event_that_never_happens_is_never_due():
    assert not any(plan.is_due(step, 0, 8) for step in range(1, 9))
    assert [step for step in range(1, 9) if plan.is_due(step, 3, 8)] == [3, 6, 8]


def test_building_the_copy_draws_no_random_number():
    import random

    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    with online._random_state_kept():
        random.random(), np.random.random()
    assert (random.random(), np.random.random()) == expected
