"""A SimCLR model in Keras: files of every format, under strategies, and callbacks."""

from __future__ import annotations

import collections
import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tf_simclr.checkpoints.restoring import variable_paths
from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import array_source
from tf_simclr.models.encoders import build_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR

layers = tf.keras.layers
A, B = np.random.default_rng(0).random([2, 8, 6, 6, 3]).astype(np.float32)
LABELLED = tf.data.Dataset.from_tensors(((A, B), (A, np.arange(8) % 3)))


def model_of(strategy=None, **options):
    with strategy.scope() if strategy else contextlib.nullcontext():
        images = layers.Input([6, 6, 3])
        x = layers.BatchNormalization()(layers.Conv2D(4, 3)(images))
        encoder = tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))
        model = SimCLR(encoder, ProjectionHead(2, 4), **options)
        model.compile(tf.keras.optimizers.Adam(0.01))
    return model


def embeddings(model):
    return model.predict(A, verbose=0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained model, and a folder with the model in every format."""
    tf.keras.utils.set_random_seed(0)
    model = model_of(probe_classes=3)
    model.fit(LABELLED, verbose=0)
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder / "model.keras")
    for name in ("w.h5", "w.weights.h5", "w_tf"):
        model.save_weights(folder / name)
    return model, folder


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_models_come_back_with_their_optimiser(replicas, saved):
    model, folder = saved
    strategy = mirrored(replicas) if replicas else None
    with strategy.scope() if strategy else contextlib.nullcontext():
        again = tf.keras.models.load_model(folder / "model.keras")
    assert isinstance(again, SimCLR)
    np.testing.assert_allclose(embeddings(again), embeddings(model), atol=1e-6)
    again.fit(LABELLED.unbatch().batch(8, drop_remainder=True), verbose=0)
    assert int(again.optimizer.iterations.numpy()) == 2
    assert int(again.probe_optimizer.iterations.numpy()) == 2


@pytest.mark.parametrize("replicas", [0, 1, 2])
@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "w_tf"])
def test_weights_come_back(name, replicas, saved):
    model, folder = saved
    again = model_of(mirrored(replicas) if replicas else None, probe_classes=3)
    again.load_weights(folder / name)
    for a, b in zip(again.variables, model.variables):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.name)


def pipeline():
    images = np.random.default_rng(0).integers(0, 256, [16, 6, 6, 3], np.uint8)
    return two_view_dataset(array_source(images), batch_size=4, image_size=6)


@pytest.mark.parametrize(
    "train",
    [
        lambda model: None,
        lambda model: model.fit(pipeline(), steps_per_epoch=1, verbose=0),
        lambda model: model.fit(A, B, verbose=0),
    ],
    ids=["before fit", "after the pipeline's batches", "after two views"],
)
def test_saved_models_for_serving(train, tmp_path):
    model = model_of()
    train(model)
    expected = embeddings(model)
    model.save(tmp_path / "model")
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))  # The functions do not keep it alive.
    for serve in (
        tf.keras.models.load_model(tmp_path / "model"),
        tf.saved_model.load(str(tmp_path / "model")),
        served.serve,
    ):
        np.testing.assert_allclose(serve(tf.constant(A)), expected, atol=1e-6)
        assert serve(tf.constant(A[:3])).shape == (3, 4)  # For any number of images.


@pytest.mark.parametrize(
    "callback",
    [
        lambda d: tf.keras.callbacks.ModelCheckpoint(f"{d}/folder"),
        lambda d: tf.keras.callbacks.ModelCheckpoint(f"{d}/model.keras"),
        lambda d: tf.keras.callbacks.ModelCheckpoint(f"{d}/w.h5", save_weights_only=True),
        lambda d: tf.keras.callbacks.ModelCheckpoint(f"{d}/w.weights.h5", save_weights_only=True),
        lambda d: tf.keras.callbacks.TensorBoard(f"{d}/logs", histogram_freq=1),
        lambda d: tf.keras.callbacks.BackupAndRestore(f"{d}/backup", delete_checkpoint=False),
    ],
    ids=["folder", "keras", "h5", "weights.h5", "tensorboard", "backup"],
)
def test_callbacks_write_their_files(callback, tmp_path):
    model = model_of()
    model.fit(A, B, callbacks=[callback(tmp_path)], verbose=0)
    assert any(tmp_path.iterdir())


def test_it_stops_early_with_the_best_weights():
    model = model_of()
    stop = tf.keras.callbacks.EarlyStopping("loss", patience=0, restore_best_weights=True)
    stop.best = -1.0  # No loss is better.
    model.fit(A, B, epochs=3, callbacks=[stop], verbose=0)
    assert stop.stopped_epoch >= 0 and len(model.history.history["loss"]) < 3


@pytest.mark.parametrize("options", [{"steps_per_execution": 2}, {"run_eagerly": True}], ids=str)
def test_other_ways_to_run(options):
    def loss_of(**options):
        tf.keras.utils.set_random_seed(2)
        model = model_of()
        model.compile(tf.keras.optimizers.SGD(0.1), **options)
        return model.fit(pipeline(), steps_per_epoch=2, verbose=0).history["loss"]

    np.testing.assert_allclose(loss_of(**options), loss_of(), rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "efficientnetv2-b0"])
def test_no_two_weights_share_a_name(name):
    options = {"width_multiplier": 0.125, "sk_ratio": 0.0625} if name == "resnet50" else {}
    model = SimCLR(build_encoder(name, **options), ProjectionHead(3, 8), probe_classes=3)
    names = collections.Counter(v.name for v in [*model.variables, *model.probe.variables])
    weights = {v.ref(): v.name for v in model.variables}
    assert len(set(weights.values())) == len(weights)
    assert {"probe/kernel:0", "probe/bias:0"} <= names.keys()


def test_names_are_no_part_of_a_checkpoint():
    """Older checkpoints, in which every kernel is named "kernel", have these paths."""
    head = ProjectionHead(2, 4)
    head.build([None, 3])
    paths = {path.split("/.")[0] for path in variable_paths(tf.train.Checkpoint(head=head))}
    norms = [f"head/norms/{i}/{v}" for i in (0, 1) for v in ("moving_mean", "moving_variance")]
    assert paths == {
        *norms,
        *("head/dense/0/kernel", "head/dense/1/kernel"),
        *("head/norms/0/gamma", "head/norms/0/beta", "head/norms/1/gamma"),
    }
    assert [v.name for v in head.trainable_variables][0].endswith("dense_1/kernel:0")
