"""The evaluation modes check their two splits before they compute anything."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import features
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.models.encoders import build_encoder
from tf_simclr.tasks import inputs

PNG = tf.io.encode_png(np.zeros([4, 5, 3], np.uint8)).numpy()


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)


def splits(root, **settings):
    config = Config(mode="knn_eval", workdir=str(root / "w"), dataset=str(root), **settings)
    return inputs.labelled_splits(config)


def test_the_same_classes_say_nothing(tmp_path, caplog):
    write(tmp_path, *(f"{split}/{name}/0.png" for split in ("train", "test") for name in "ab"))
    train, test = splits(tmp_path)
    assert (train.num_examples, test.num_examples) == (2, 2) and not caplog.records


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("abc", "ab", ["1 class(es) are in train only, so none of their images is evaluated: c."]),
        ("ab", "abd", ["1 class(es) are in test only, so their images always count as wrong: d."]),
        ("ac", "ab", ["in train only, so none of their images is evaluated: c.", "in test only"]),
    ],
)
def test_classes_of_one_split_only_are_named(tmp_path, caplog, train, test, said):
    write(tmp_path, *(f"train/{name}/0.png" for name in train))
    write(tmp_path, *(f"test/{name}/0.png" for name in test))
    splits(tmp_path)
    assert all(text in caplog.text for text in said) and len(caplog.records) == len(said)


@pytest.mark.parametrize("other", ["test", "extra"])
def test_no_class_in_common_is_refused(tmp_path, other):
    write(tmp_path, "train/a/0.png", "train/b/0.png", "valid/a/0.png")
    write(tmp_path, f"{other}/c/0.png", f"{other}/d/0.png")
    with pytest.raises(UserError, match="have no class in common: a, b, and c, d"):
        splits(tmp_path, eval_split=other)


def test_one_message_says_all_that_is_wrong(tmp_path):
    write(tmp_path, "0.png", "1.png")
    with pytest.raises(UserError) as error:
        splits(tmp_path)
    said = str(error.value)
    assert "no labels" in said and "2 images lie directly in it" in said
    assert "no split 'test'" in said and "--eval_split='train[90%:]'" in said
    with pytest.raises(UserError) as error:
        splits(tmp_path, eval_split="train")
    assert str(error.value).count("no labels") == 1


def test_a_folder_that_is_not_there_is_said_once(tmp_path):
    with pytest.raises(UserError) as error:
        splits(tmp_path / "nowhere")
    assert str(error.value).count("not a folder") == 1


def test_a_bad_file_is_named(tmp_path):
    write(tmp_path, "train/a/0.png", "train/b/0.png")
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"no image")
    config = Config(mode="knn_eval", workdir=str(tmp_path / "w"), dataset=str(tmp_path))
    source = inputs.source_of(config, "train")
    encoder = build_encoder("resnet18", image_size=8, channels=3, width_multiplier=0.125)
    for compute in (
        lambda: features.represent(encoder, source, image_size=8, batch_size=2),
        lambda: features.raw_pixels(source, image_size=8, batch_size=2),
    ):
        with pytest.raises(UserError, match=r"1 of 3 files cannot be decoded.*b/1\.png"):
            compute()
