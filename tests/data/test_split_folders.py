"""Which folder is which split; all splits share one numbering of classes."""

from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.data.sources import open_source
from tf_simclr.data.split_folders import split_named
from tf_simclr.errors import UserError


def write(root, *names):
    """Writes a PNG at each path, bytes or text; a path ending in "/" is a folder."""
    png = tf.io.encode_png(np.zeros([4, 5, 3], np.uint8)).numpy()
    for name in map(os.fsencode, names):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not path.endswith(b"/"):
            with open(path, "wb") as file:
                file.write(png)


def files(source, root):
    return [os.path.relpath(source.describe(i), root) for i in range(source.num_examples)]


def labels_of(source):
    return [source.class_names[label] for label in source.labels]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRAIN_SET", "train"),
        ("training set", "train"),
        ("trainset", "train"),
        ("train-images", "train"),
        ("valid", "validation"),
        ("Val", "validation"),
        ("dev_set", "validation"),
        ("test", "test"),
        ("Testing", "test"),
        ("test_data", "test"),
        ("eval", "test"),
        ("dataset", None),
        ("trains", None),
        ("train2017", None),
        ("contest", None),
        ("", None),
        ("set", None),
    ],
)
def test_names_of_splits(name, split):
    assert split_named(name) == split


@pytest.mark.parametrize(
    ("train", "other", "asked"),
    [
        ("train", "valid", "valid"),
        ("train", "valid", "test"),
        ("train", "dev", "val"),
        ("Training", "Testing", "test"),
        ("training_set", "test_set", "test"),
        ("TRAIN", "VALIDATION", "dev"),
    ],
)
def test_usual_names_are_splits(tmp_path, train, other, asked):
    write(tmp_path, *(f"{train}/{name}/0.png" for name in "abc"), f"{other}/c/1.png")
    first = open_source("folder", str(tmp_path))
    second = open_source("folder", str(tmp_path), asked)
    assert files(first, tmp_path) == [f"{train}/{name}/0.png" for name in "abc"]
    assert files(second, tmp_path) == [f"{other}/c/1.png"]
    assert labels_of(first) == ["a", "b", "c"] and second.labels.tolist() == [2]


@pytest.mark.parametrize("asked", ["valid", "test"])
def test_all_splits_number_classes_alike(tmp_path, asked):
    write(tmp_path, *(f"train/{name}/0.png" for name in "abc"))
    write(tmp_path, "valid/a/0.png", "valid/c/0.png", "test/a/0.png")
    source = open_source("folder", str(tmp_path), asked)
    assert source.class_names == ("a", "b", "c")
    assert source.labels.tolist() == {"valid": [0, 2], "test": [0]}[asked]


def test_other_folders_keep_the_numbers_and_add_their_own(tmp_path):
    write(tmp_path, "train/b/0.png", "train/c/0.png", "test/c/0.png")
    write(tmp_path, "extra/a/0.png", "extra/c/0.png", "other/x/0.png", "other/y/0.png")
    extra = open_source("folder", str(tmp_path), "extra")
    assert extra.class_names == ("b", "c", "a") and extra.labels.tolist() == [2, 1]
    assert open_source("folder", str(tmp_path)).class_names == ("b", "c")
    assert open_source("folder", str(tmp_path), "other").class_names == ("x", "y")


def test_what_is_in_no_split_is_said(tmp_path, caplog):
    write(tmp_path, "train/a/0.png", "test/a/0.png", "bus/a/0.png", "0.png", "1.png")
    open_source("folder", str(tmp_path))
    assert "Ignoring bus in" in caplog.text
    assert "2 images directly in" in caplog.text


def test_two_folders_of_one_split(tmp_path, caplog):
    write(tmp_path, "train/a/0.png", "val/a/0.png", "valid/a/0.png")
    assert files(open_source("folder", str(tmp_path), "val"), tmp_path) == ["val/a/0.png"]
    assert "Ignoring valid in" in caplog.text
    for asked in ("validation", "test"):
        with pytest.raises(UserError, match=f"'{asked}' is ambiguous: the folders val, valid in"):
            open_source("folder", str(tmp_path), asked)


def test_two_cases_of_one_name(tmp_path, caplog):
    write(tmp_path, "train/a/0.png", "Train/a/1.png", "TEST/a/2.png", "Test/a/3.png")
    if len(os.listdir(tmp_path)) < 4:
        pytest.skip("the file system does not distinguish case")
    assert files(open_source("folder", str(tmp_path)), tmp_path) == ["train/a/0.png"]
    assert "Ignoring Train in" in caplog.text
    assert files(open_source("folder", str(tmp_path), "Train"), tmp_path) == ["Train/a/1.png"]
    with pytest.raises(UserError, match="'test' is ambiguous: the folders TEST, Test in"):
        open_source("folder", str(tmp_path), "test")


@pytest.mark.parametrize(
    "classes", [("test", "control"), ("bus", "train"), ("valid", "invalid"), ("dev", "ops", "eval")]
)
def test_classes_with_names_of_splits(tmp_path, caplog, classes):
    write(tmp_path, *(f"{name}/0.png" for name in classes))
    assert open_source("folder", str(tmp_path)).class_names == tuple(sorted(classes))
    assert not caplog.records


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("train2017/0.png", "val2017/0.png"), "train2017, val2017"),
        (("seg_train/a/0.png", "seg_test/a/0.png"), "seg_test, seg_train"),
        (("train/a/0.png", "train/b/0.png", "more/0.png"), "train"),
    ],
)
def test_classes_that_look_like_splits_are_said(tmp_path, caplog, folders, named):
    write(tmp_path, *folders)
    assert len(open_source("folder", str(tmp_path)).class_names) == 2
    assert f"The folders {named} in" in caplog.text and "look like splits" in caplog.text


def test_images_and_their_annotations_are_no_classes(tmp_path):
    write(tmp_path, "train/images/0.png", "valid/images/1.png")
    for split in ("train", "valid"):
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    source = open_source("folder", str(tmp_path))
    assert source.labels is None and "one sub-folder, 'images'" in source.unlabelled


# Unicode forms

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9").encode() for form in ("NFC", "NFD"))


def both_forms(tmp_path):
    write(tmp_path, NFC + b"/0.png", NFD + b"/1.png")
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("the file system normalises names")


@pytest.mark.parametrize("forms", [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_a_class_is_one_in_either_form(tmp_path, forms):
    write(tmp_path, b"train/" + forms[0] + b"/0.png", b"train/zoo/0.png")
    write(tmp_path, b"test/" + forms[1] + b"/1.png", b"test/bar/1.png")
    train, test = (open_source("folder", str(tmp_path), split) for split in ("train", "test"))
    assert train.class_names == test.class_names and len(train.class_names) == 3
    assert set(labels_of(train)) == {"caf\u00e9", "zoo"}
    assert set(labels_of(test)) == {"caf\u00e9", "bar"}
    assert find_path(test, forms[1])  # The path has the same Unicode form as the folder.


def find_path(source, form):
    paths = [os.fsencode(source.describe(i)) for i in range(source.num_examples)]
    return any(form in path and os.path.exists(path) for path in paths)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["images/train/0.png", "images/val/1.png", "labels/train/"], True),  # YOLO.
        (["data/train/a/0.png", "data/train/b/0.png", "data/test/a/1.png"], True),  # Unpacked.
        (["data/train/0.png", "data/other/1.png"], False),
        (["data/a/0.png", "data/b/1.png"], False),
        (["data/train/0.png"], False),
    ],
)
def test_splits_one_level_deeper_are_said(names, said, tmp_path, caplog):
    write(tmp_path, *names)
    source = open_source("folder", str(tmp_path))
    assert source.labels is None
    top = tmp_path / names[0].split("/")[0]
    assert (f"To read them as splits pass --data_dir={top}" in caplog.text) == said


def test_both_forms_in_one_split_are_one_class(tmp_path):
    both_forms(tmp_path)
    write(tmp_path, "zoo/2.png")
    source = open_source("folder", str(tmp_path))
    assert source.class_names == ("caf\u00e9", "zoo") and sorted(source.labels) == [0, 0, 1]
    assert source.num_examples == 3


def test_both_forms_of_one_class_alone_are_no_classes(tmp_path):
    both_forms(tmp_path)
    assert open_source("folder", str(tmp_path)).labels is None


def test_the_order_of_classes_is_that_of_their_bytes(tmp_path):
    """So a run on a copy made by a Mac keeps its class numbers."""
    decomposed = unicodedata.normalize("NFD", "\u00e9t\u00e9").encode()
    write(tmp_path, decomposed + b"/0.png", b"fox/0.png")
    assert open_source("folder", str(tmp_path)).class_names == ("\u00e9t\u00e9", "fox")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\xe9", b"\xe6\x97"])
def test_names_that_are_not_utf8(tmp_path, name):
    write(tmp_path, b"train/" + name + b"/0.png", b"train/b/0.png", b"valid/" + name + b"/1.png")
    train, test = (open_source("folder", str(tmp_path), split) for split in ("train", "val"))
    assert os.fsencode(labels_of(test)[0]) == name
    assert train.class_names == test.class_names and len(train.class_names) == 2
