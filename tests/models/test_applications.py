"""Encoders of Keras Applications: their scaling, and Keras' ImageNet weights."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import tensorflow as tf

from tests.command_line import parse
from tests.small_runs import result, run, write_images
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.errors import UserError
from tf_simclr.models.encoders import build_encoder, imagenet_encoder

applications = tf.keras.applications
# One network of each family, with its module, whose `preprocess_input` is what it expects.
FAMILIES = {
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
    "EfficientNetV2B0": "efficientnet_v2",
    "EfficientNetV2S": "efficientnet_v2",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "ResNet50V2": "resnet_v2",
    "ResNetRS50": "resnet_rs",
    "Xception": "xception",
}
# Keras' name of the file, which is the only one here that Keras takes without a checksum.
MOBILENET_V2 = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def noisy(model, seed):
    """Gives a model weights that make a wrong scaling or a wrong order of layers visible."""
    rng = np.random.default_rng(seed)
    model.set_weights([w * rng.uniform(0.9, 1.1, w.shape) for w in model.get_weights()])


@pytest.mark.parametrize("name", FAMILIES)
def test_images_are_scaled_as_keras_says(name):
    rgb = np.random.default_rng(0).integers(0, 256, [2, 40, 40, 3]).astype(np.float32)
    theirs = getattr(applications, name)(
        include_top=False, weights=None, input_shape=[None, None, 3], pooling="avg"
    )
    noisy(theirs, 1)
    expected = theirs(getattr(applications, FAMILIES[name]).preprocess_input(rgb.copy()))
    ours = build_encoder(name)
    ours.set_weights(theirs.get_weights())
    found = ours(rgb / np.float32(255))
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    again = tf.keras.models.clone_model(ours)  # From its config, as a checkpoint's encoder is.
    again.set_weights(ours.get_weights())
    np.testing.assert_allclose(again(rgb / np.float32(255)), found, rtol=1e-5, atol=1e-5)


@pytest.fixture
def keras_cache(tmp_path, monkeypatch):
    """An empty home folder without a network; returns where Keras looks for weights."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_HOME", raising=False)

    def unreachable(*args, **kwargs):
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    folder = tmp_path / "home/.keras/models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def weights(keras_cache):
    """Stands for Keras' ImageNet weights of MobileNetV2, in its cache."""
    model = applications.MobileNetV2(include_top=False, weights=None, input_shape=[None, None, 3])
    noisy(model, 2)
    model.save_weights(keras_cache / MOBILENET_V2)
    return model.get_weights()


def assert_same(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


def test_weights_from_the_cache(weights):
    assert_same(imagenet_encoder("MobileNetV2").get_weights(), weights)


def test_runs_start_from_imagenet(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos/a")
    write_images(tmp_path / "photos/b")
    settings = {
        "init_from": "imagenet",
        "encoder": "MobileNetV2",
        "width_multiplier": 1.0,
        "dataset": "./photos",
        "image_size": 32,
        "train_split": "train[:75%]",
        "eval_split": "train[75%:]",
    }
    steps = {"train_batch_size": 4, "train_steps": 1, "warmup_epochs": 0.0}
    learned = imagenet_encoder("MobileNetV2").trainable_weights
    run(tmp_path / "w", **settings, **steps, learning_rate=0.0)
    assert_same(load_encoder_from(tmp_path / "w").trainable_weights, learned)
    assert parse("--workdir=w").init_from == "imagenet"  # Not made a path.
    (tmp_path / "imagenet").mkdir()  # Not taken for it either.
    run(tmp_path / "k", mode="knn_eval", **settings, knn_k=3, baselines=False)
    assert result(tmp_path / "k")["knn_eval"]["init_from"] == "imagenet"
    tuning = {**steps, "optimizer": "momentum", "learning_rate": 0.0}
    run(tmp_path / "f", mode="finetune", **settings, **tuning)
    assert_same(load_encoder_from(tmp_path / "f").trainable_weights, learned)
    assert (tmp_path / "f/classifier.keras").exists()
    run(tmp_path / "e", mode="export", **settings)
    assert "ImageNet" in (tmp_path / "e/encoder/card.md").read_text()
    assert_same(load_encoder_from(tmp_path / "e").get_weights(), weights)


@pytest.mark.parametrize("mode", ["knn_eval", "linear_eval", "export", "finetune"])
def test_the_flag_encoder_says_which_weights(mode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = [f"--mode={mode}", "--workdir=w", "--init_from=imagenet"]
    assert parse(*start, "--encoder=MobileNetV2").encoder == "MobileNetV2"
    with pytest.raises(UserError, match="does not use --sk_ratio"):
        parse(*start, "--encoder=MobileNetV2", "--sk_ratio=0.1")


def test_what_is_not_there_is_said(keras_cache, tmp_path):
    message = "ImageNet weights of MobileNetV2 cannot be loaded: .*no such host.* copy that folder"
    with pytest.raises(UserError, match=message):
        imagenet_encoder("MobileNetV2")
    assert not list(keras_cache.iterdir())
    (keras_cache / MOBILENET_V2).write_bytes(b"half of a file")
    with pytest.raises(UserError, match="cannot be loaded: .* if a file there is damaged, remove"):
        imagenet_encoder("MobileNetV2")
    with pytest.raises(UserError, match="no ImageNet weights for --encoder=resnet50. .*ConvNeXt"):
        run(tmp_path / "w", init_from="imagenet", encoder="resnet50", width_multiplier=1.0)
    with pytest.raises(UserError, match="no ImageNet weights for --encoder=resnet50"):
        run(tmp_path / "w", mode="knn_eval", init_from="imagenet", encoder="resnet50")


def test_weights_for_rgb_do_not_fit_grey_images(weights, tmp_path):
    with pytest.raises(UserError, match=r"does not fit.*\[3, 3, 3, 32\] there and \[3, 3, 1, 32\]"):
        run(
            tmp_path / "w",
            init_from="imagenet",
            encoder="MobileNetV2",
            width_multiplier=1.0,
            image_size=32,
        )
