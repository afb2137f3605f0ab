"""Fine-tuning: what it trains and what it leaves unchanged, stopping, resuming, and its files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.command_line import parse
from tests.replicas import mirrored
from tests.small_runs import SMALL, lines, run
from tf_simclr import tasks
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.models.classifier import ClassifierTraining, classifier
from tf_simclr.tasks import build, inputs
from tf_simclr.workdir import Workdir, read_results

STEPS = {"optimizer": "momentum", "learning_rate": 0.5, "train_steps": 6, "checkpoint_steps": 2}
STAGES = ("initial_max_pool", "block_group1", "block_group2", "block_group3")


@pytest.fixture(scope="module")
def whole(pretrained_run, tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    run(workdir, mode="finetune", init_from=str(pretrained_run), **STEPS)
    return workdir


def weights(workdir, name="classifier.keras"):
    return tf.keras.models.load_model(workdir / name).get_weights()


def test_it_leaves_what_a_pretraining_run_leaves(whole):
    for name in ("flags.resolved", "checkpoints", "tensorboard", "classifier.keras", "encoder"):
        assert (whole / name).exists(), name
    assert [line["step"] for line in lines(whole)] == [2, 4, 6]
    assert lines(whole)[-1]["chance_level"] == pytest.approx(np.log(10))
    results = read_results(str(whole))
    top1 = results["finetune"]["top1"]
    assert results["training"]["step"] == 6 and results["finetune"]["steps"] == 6
    assert f"top-1 {top1:.1%} of 500 images" in (whole / "report.html").read_text()
    card = json.loads((whole / "encoder" / "card.json").read_text())
    assert card["results"]["finetune"]["top1"] == top1
    assert card["classes"] == [str(digit) for digit in range(10)]
    logits = tf.keras.models.load_model(whole / "classifier.keras").predict(np.zeros([2, 8, 8, 1]))
    assert logits.shape == (2, 10)


def test_the_accuracy_told_is_that_of_the_classifier_written(whole):
    source = inputs.source_of(Config(workdir="w", **SMALL), "test")
    model = tf.keras.models.load_model(whole / "classifier.keras")
    images = tf.image.resize(source.images, [8, 8]).numpy() / 255.0
    top1 = np.mean(model.predict(images).argmax(axis=1) == source.labels)
    assert read_results(str(whole))["finetune"]["top1"] == pytest.approx(top1, abs=1e-6)


@pytest.mark.parametrize("after", [-1, 0, 1, 2, 3, 4])
def test_what_is_frozen_stays_and_the_rest_learns(after, pretrained_run, tmp_path, no_export):
    settings = {**STEPS, "train_steps": 2}
    start = {"mode": "finetune", "init_from": str(pretrained_run), "fine_tune_after_block": after}
    run(tmp_path / "w", **start, **settings)
    before = load_encoder_from(str(pretrained_run))
    after_training = load_encoder_from(str(tmp_path / "w"))
    names = [layer.name for layer in before.layers]
    frozen = len(names) if after == 4 else names.index(STAGES[after]) + 1 if after >= 0 else 0
    for position, layer in enumerate(before.layers):
        now = after_training.layers[position].get_weights()
        same = [np.array_equal(a, b) for a, b in zip(layer.get_weights(), now)]
        assert all(same) if position < frozen else not any(same), layer.name


def test_stopped_and_resumed_without_the_encoder_it_started_from(
    whole, pretrained_run, tmp_path, monkeypatch, no_export
):
    class Stop(Exception):
        pass

    start = shutil.copytree(pretrained_run, tmp_path / "start")
    settings = {"mode": "finetune", "init_from": str(start), **STEPS}
    original = Workdir.log_metrics

    def stop_at_four(self, metrics):
        original(self, metrics)
        if metrics["step"] == 4:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "log_metrics", stop_at_four)
        with pytest.raises(Stop):
            run(tmp_path / "w", **settings)
    shutil.rmtree(start)
    run(tmp_path / "w", **settings)
    assert [line["loss"] for line in lines(tmp_path / "w")] == [x["loss"] for x in lines(whole)]
    for a, b in zip(weights(tmp_path / "w"), weights(whole)):
        np.testing.assert_array_equal(a, b)


def test_two_replicas_change_nothing(pretrained_run, tmp_path, no_export):
    settings = {**SMALL, **STEPS, "train_steps": 1, "log_steps": 1, "warmup_epochs": 0.0}
    for replicas in (1, 2):
        config = Config(
            workdir=str(tmp_path / str(replicas)),
            **{**settings, "mode": "finetune", "init_from": str(pretrained_run)},
        )
        tasks.run(config, mirrored(replicas))
    one, two = (lines(tmp_path / name)[-1] for name in "12")
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    before = load_encoder_from(str(pretrained_run)).get_weights()
    one, two = (load_encoder_from(str(tmp_path / name)).get_weights() for name in "12")
    for old, a, b in zip(before, one, two):
        # Relative to one step's update: a ReLU that flips changes a gradient by about 1 %.
        np.testing.assert_allclose(a - old, b - old, atol=0.02 * np.abs(a - old).max() + 1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch_size": 8}, "--mode=finetune takes --micro_batch_size=0 only; received 8"),
        ({"rematerialize": True}, "--mode=finetune takes --rematerialize=False only"),
        ({"data_service": "grpc://a:1"}, "--mode=finetune takes no --data_service; received"),
        ({"precision": "mixed_bfloat16"}, "--mode=finetune takes --precision=float32 only"),
        ({"lineareval_while_pretraining": True}, "--lineareval_while_pretraining=False only"),
        ({"init_from": ""}, "--mode=finetune needs --init_from, the encoder to start from"),
        ({"workdir": ""}, "--mode=finetune needs --workdir, the folder"),
    ],
    ids=str,
)
def test_what_does_not_apply_is_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**{"mode": "finetune", "workdir": "w", "init_from": "x", **settings})


def test_it_has_defaults_of_its_own(whole, pretrained_run, tmp_path):
    start = ["--mode=finetune", f"--init_from={pretrained_run}", f"--workdir={tmp_path / 'w'}"]
    config = parse(*start)
    chosen = (config.optimizer, config.train_batch_size, config.warmup_epochs, config.weight_decay)
    assert chosen == ("momentum", 64, 0.0, 0.0)
    assert (config.dataset, config.image_size) == ("digits", 8)  # From the encoder's run.
    assert config.temperature == SMALL.get("temperature", 0.1)
    config = parse(*start, "--optimizer=adamw", "--train_steps=7")
    assert (config.optimizer, config.train_steps) == ("adamw", 7)
    resumed = parse("--mode=finetune", f"--workdir={whole}")
    assert (resumed.learning_rate, resumed.train_batch_size) == (0.5, 32)
    assert parse("--mode=pretrain", "--workdir=w").optimizer == "lars"


@pytest.mark.parametrize(
    "flag",
    [
        "--temperature=0.7",
        "--grayscale_probability=0.1",
        "--color_jitter_strength=0",
        "--num_proj_layers=1",
        "--encoder=resnet50",
        "--width_multiplier=2",
    ],
)
def test_what_has_no_effect_may_not_be_given(flag, whole, pretrained_run, tmp_path):
    name = flag.lstrip("-").partition("=")[0]
    start = [f"--init_from={pretrained_run}", f"--workdir={tmp_path / 'w'}"]
    with pytest.raises(UserError, match=f"--mode=finetune does not use --{name}; received"):
        parse("--mode=finetune", *start, flag)
    with pytest.raises(UserError, match=f"does not use --{name}"):
        parse("--mode=finetune", f"--workdir={whole}", flag)
    parse("--mode=pretrain", f"--workdir={tmp_path / 'w'}", flag)
    parse(f"--flagfile={whole / 'flags.resolved'}", f"--workdir={whole}")  # The run's own settings.


def test_the_data_service_of_pretraining_is_not_inherited(pretrained_run, tmp_path):
    run_before = shutil.copytree(pretrained_run, tmp_path / "start")
    path = run_before / "flags.resolved"
    path.write_text(path.read_text().replace("--data_service=", "--data_service=grpc://gone:1"))
    config = parse("--mode=finetune", f"--init_from={run_before}", "--workdir=w")
    assert config.data_service == ""


@pytest.mark.parametrize(
    ("batch", "images", "replicas", "fitted"),
    [(64, 200, 1, 64), (64, 50, 1, 50), (64, 51, 2, 50), (512, 300, 4, 300), (64, 64, 2, 64)],
)
def test_the_batch_is_no_larger_than_the_set(batch, images, replicas, fitted, caplog):
    config = Config(workdir="w", mode="finetune", init_from="x", train_batch_size=batch)
    assert build.fit_batch(config, images, replicas).train_batch_size == fitted
    said = f"--train_batch_size={batch} is more than the {images} images" in caplog.text
    assert said == (fitted < batch)


def small_classifier(**options):
    tf.keras.utils.set_random_seed(0)
    images = tf.keras.Input([4, 4, 1])
    x = tf.keras.layers.Conv2D(3, 3, kernel_regularizer="l2")(images)
    x = tf.keras.layers.BatchNormalization()(x)
    encoder = tf.keras.Model(images, tf.keras.layers.GlobalAveragePooling2D()(x))
    training = ClassifierTraining(classifier(encoder, 3), **options)
    training.compile(tf.keras.optimizers.SGD(0.1))
    training.optimizer.build(training.classifier.trainable_variables)
    return training


def test_a_step_is_that_of_keras():
    rng = np.random.default_rng(0)
    images, labels = rng.random([8, 4, 4, 1], np.float32), np.arange(8) % 3
    training = small_classifier()
    keras = tf.keras.models.clone_model(training.classifier)
    keras.set_weights(training.classifier.get_weights())
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras.compile(tf.keras.optimizers.SGD(0.1), loss)
    keras.train_on_batch(images, labels)
    training.train_step((tf.constant(images), tf.constant(labels)))
    for ours, theirs in zip(training.classifier.get_weights(), keras.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_step_is_left_out_and_counted(value):
    training = small_classifier(skip_bad_steps=True)
    labels = tf.constant([0, 1])
    good = tf.random.stateless_uniform([2, 4, 4, 1], [0, 1])
    training.train_step((good, labels))
    before = training.classifier.get_weights()
    told = training.train_step((tf.fill([2, 4, 4, 1], value), labels))
    for a, b in zip(before, training.classifier.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert float(told["skipped_steps"]) == 1.0 and np.isfinite(float(told["loss"]))
    training.train_step((good, labels))
    assert not np.array_equal(before[0], training.classifier.get_weights()[0])
