"""Folders of images: files, their order, classes, splits and bad files."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.config import Config
from tf_simclr.data import folder as folder_module
from tf_simclr.data.decoding import MAX_BYTES
from tf_simclr.data.sources import find_bad_images, open_source
from tf_simclr.errors import UserError
from tf_simclr.tasks.inputs import source_of


def write(path, value=0, size=(5, 7)):
    """Writes a PNG of a constant value, whatever the extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(np.full([*size, 3], value, np.uint8)).numpy())
    return path


def names(source, root):
    return [os.path.relpath(source.describe(i), root) for i in range(source.num_examples)]


def values(source):
    """The grey value of each image, read as in the pipeline."""
    dataset = tf.data.Dataset.range(source.num_examples).map(source.load, tf.data.AUTOTUNE)
    return [int(image[0, 0, 0]) for image in dataset]


@pytest.fixture
def classes(tmp_path):
    for label, name in enumerate(["ant", "bee", "cat"]):
        for i in range(label + 2):
            write(tmp_path / name / f"{i}.png", 50 * label + i, (4 + i, 6))
    return tmp_path


def test_flat(tmp_path):
    files = ["b.jpg", "a.PNG", "c.JPeG", "d.gif", "é ü.bmp", "with space.jpg"]
    for value, name in enumerate(files):
        write(tmp_path / name, value)
    for name in (".hidden.png", "notes.txt", "png", "x.webp", ".thumbs/a.png", "sub/.b.png"):
        write(tmp_path / name, 99)
    source = open_source("folder", str(tmp_path))
    assert names(source, tmp_path) == sorted(files, key=os.fsencode)
    assert values(source) == [files.index(name) for name in names(source, tmp_path)]
    assert (source.labels, source.class_names, source.images) == (None, None, None)
    assert (source.num_examples, source.channels) == (6, 3)
    assert source.name == f"folder {tmp_path.name}" and source.split == "train"
    assert source.bad_images == [] and "6 images" in repr(source)


def test_deep_and_in_order(tmp_path):
    files = ["x/2.png", "x/10.png", "x/y/z/0.png", "x-y/0.png", "0.png", "x/y/1.png"]
    for value, name in enumerate(reversed(files)):
        write(tmp_path / name, value)
    source = open_source("folder", str(tmp_path))
    expected = ["0.png", "x/10.png", "x/2.png", "x/y/1.png", "x/y/z/0.png", "x-y/0.png"]
    assert names(source, tmp_path) == expected
    assert source.labels is None  # 0.png has no class.


def test_loads_and_reads(classes):
    source = open_source("folder", str(classes))
    for index in (0, 4, 8):
        image = source.load(tf.constant(index, tf.int64))
        assert image.dtype == tf.uint8 and image.shape[-1] == 3
        with open(source.describe(index), "rb") as file:
            assert source.encoded(tf.constant(index, tf.int64)).numpy() == file.read()
    assert source.load(tf.constant(8, tf.int64)).shape == (7, 6, 3)
    spec = tf.data.Dataset.range(1).map(source.load).element_spec
    assert spec.shape.as_list() == [None, None, 3]
    grey = open_source("folder", str(classes), channels=1)
    assert grey.channels == 1 and grey.load(tf.constant(8, tf.int64)).shape == (7, 6, 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        source.load(tf.constant(9, tf.int64))


def test_classes(classes):
    write(classes / "bee" / "deeper" / "still" / "9.png", 77)
    (classes / "empty").mkdir()
    source = open_source("folder", str(classes))
    assert source.class_names == ("ant", "bee", "cat")
    assert source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, [0] * 2 + [1] * 4 + [2] * 4)
    for label, name in zip(source.labels, names(source, classes)):
        assert name.startswith(source.class_names[label] + os.sep)


def test_one_sub_folder_is_no_class(tmp_path):
    write(tmp_path / "all" / "a.png")
    assert open_source("folder", str(tmp_path)).labels is None


@pytest.mark.parametrize("other, asked", [("test", "test"), ("val", "test"), ("Validation", "val")])
def test_splits(tmp_path, other, asked):
    for name in ("a", "b", "c"):
        write(tmp_path / "train" / name / "0.png", 1)
    for name in ("a", "c", "d"):  # A missing or additional class must not shift the others.
        write(tmp_path / other / name / "1.png", 2)
    write(tmp_path / "unlabeled" / "images" / "2.png", 3)
    train = open_source("folder", str(tmp_path))
    test = open_source("folder", str(tmp_path), asked)
    assert train.class_names == test.class_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(train.labels, [0, 1, 2])
    np.testing.assert_array_equal(test.labels, [0, 2, 3])
    assert values(train) == [1] * 3 and values(test) == [2] * 3
    unlabelled = open_source("folder", str(tmp_path), "unlabeled")
    assert unlabelled.labels is None and values(unlabelled) == [3]
    with pytest.raises(UserError, match="no split 'extra'.*train, .*unlabeled"):
        open_source("folder", str(tmp_path), "extra")


def test_train_alone_is_a_split(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "train" / name / "0.png")
    assert open_source("folder", str(tmp_path)).class_names == ("a", "b")


def test_a_class_called_train(tmp_path):
    for name in ("bus", "train"):
        write(tmp_path / name / "0.png")
    assert open_source("folder", str(tmp_path)).class_names == ("bus", "train")


def test_one_set_has_no_test_split(classes):
    with pytest.raises(UserError, match=r"no split 'test'.*train\[90%:\]"):
        open_source("folder", str(classes), "test")


def test_slices(classes):
    for i in range(20):
        write(classes / "ant" / f"more{i}.png", 200 + i)
    whole = open_source("folder", str(classes))
    parts = [open_source("folder", str(classes), f"train[{cut}]") for cut in (":50%", "50%:")]
    together = sum((names(part, classes) for part in parts), [])
    assert sorted(together) == sorted(names(whole, classes))
    for part in parts:
        assert part.class_names == whole.class_names and set(part.labels) == {0, 1, 2}
        for i, label in enumerate(part.labels):
            assert names(part, classes)[i].startswith(part.class_names[label])
    assert values(parts[0]) + values(parts[1]) != values(whole)
    assert sorted(values(parts[0]) + values(parts[1])) == sorted(values(whole))
    assert len({source.fingerprint for source in (whole, *parts)}) == 3


def test_fingerprint_is_of_names_and_sizes(tmp_path):
    for root in ("one", "two"):
        for i in range(3):
            write(tmp_path / root / f"{i}.png", i)

    def fingerprint(root):
        return open_source("folder", str(tmp_path / root)).fingerprint

    assert fingerprint("one") == fingerprint("two")
    (tmp_path / "two" / "0.png").rename(tmp_path / "two" / "00.png")
    assert fingerprint("one") != fingerprint("two")
    (tmp_path / "two" / "00.png").rename(tmp_path / "two" / "0.png")
    write(tmp_path / "two" / "0.png", 1, (50, 50))
    assert fingerprint("one") != fingerprint("two")


@pytest.mark.parametrize(
    "path, message",
    [
        (None, "data_dir"),
        ("missing", "missing"),
        ("file.png", "not a folder"),
        ("bare", "no image"),
    ],
)
def test_says_what_is_wrong_with_the_folder(tmp_path, path, message):
    write(tmp_path / "file.png")
    (tmp_path / "bare" / "sub").mkdir(parents=True)
    (tmp_path / "bare" / "a.txt").write_text("no image")
    with pytest.raises(UserError, match=message):
        open_source("folder", path and str(tmp_path / path))


def test_links(tmp_path):
    root = tmp_path / "root"
    write(root / "a" / "1.png", 1)
    write(root / "b" / "0.png", 7)
    (root / "c").symlink_to(root / "b", target_is_directory=True)
    (root / "a" / "2.png").symlink_to(root / "b" / "0.png")
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    for folder in (root, tmp_path / "link"):
        source = open_source("folder", str(folder))
        assert names(source, folder) == ["a/1.png", "a/2.png", "b/0.png", "c/0.png"]
        assert values(source) == [1, 7, 7, 7]
    (root / "a" / "broken.jpg").symlink_to(root / "nowhere.jpg")
    with pytest.raises(UserError, match=r"broken\.jpg"):
        open_source("folder", str(root))


@pytest.fixture
def linked(tmp_path):
    """A folder "root" with links that lead out of it, to a folder "root2" and to files there."""
    outside = write(tmp_path / "root2" / "secret.png", 9)
    root = tmp_path / "root"
    write(root / "a" / "1.png", 1)
    write(root / "b" / "2.png", 2)
    (root / "a" / "file.png").symlink_to(outside)
    (root / "a" / "relative.png").symlink_to("../../root2/secret.png")
    (root / "c").symlink_to(outside.parent, target_is_directory=True)
    (root / "b" / "twice.png").symlink_to(root / "a" / "file.png")
    (root / "b" / "notes.txt").symlink_to(tmp_path / "notes.txt")  # Not an image.
    return root


def test_links_out_are_passed_over_and_told(linked, caplog):
    source = open_source("folder", str(linked))
    assert values(source) == [1, 2] and source.class_names == ("a", "b")
    (record,) = caplog.records
    assert "Passed over 4 link(s)" in record.getMessage()
    assert "a/file.png" in record.getMessage() and "--follow_links" in record.getMessage()
    caplog.clear()
    followed = open_source("folder", str(linked), follow_links=True)
    assert values(followed) == [1, 9, 9, 2, 9, 9] and followed.class_names == ("a", "b", "c")
    assert "link(s)" not in caplog.text and "Skipped: .txt 1." in caplog.text


def test_splits_that_lead_out_are_none(linked, tmp_path):
    whole = tmp_path / "whole"
    write(whole / "train" / "0.png", 3)
    (whole / "test").symlink_to(linked, target_is_directory=True)
    assert values(open_source("folder", str(whole))) == [3]
    with pytest.raises(UserError, match="no split 'test'.*whole/test; --follow_links"):
        open_source("folder", str(whole), "test")
    assert open_source("folder", str(whole), "test", follow_links=True).num_examples == 6


def test_nothing_but_links_out(linked, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(linked / "a" / "1.png")
    with pytest.raises(UserError, match=r"no image.*Passed over 1 link.*a\.png; --follow_links"):
        open_source("folder", str(tmp_path / "links"))


def test_plain_entries_cost_nothing_more(linked, monkeypatch):
    asked = []
    realpath = os.path.realpath
    monkeypatch.setattr(
        folder_module.os.path, "realpath", lambda path: asked.append(path) or realpath(path)
    )
    open_source("folder", str(linked))
    assert not [path for path in asked if path.endswith((b"1.png", b"2.png"))]


def test_the_flag_reaches_the_folder(linked):
    settings = {"dataset": "folder", "data_dir": str(linked), "workdir": "w"}
    assert source_of(Config(**settings), "train").num_examples == 2
    assert source_of(Config(**settings, follow_links=True), "train").num_examples == 6


def test_giant_files_are_bad(classes):
    with open(classes / "ant" / "giant.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # A sparse file, which takes no disk space.
    with pytest.raises(UserError, match=r"1 of 10 files .*500,000,000 bytes.*giant\.png"):
        open_source("folder", str(classes))
    source = open_source("folder", str(classes), skip_bad_images=True)
    assert source.num_examples == 9 and source.bad_images == [str(classes / "ant" / "giant.png")]


def damage(classes):
    """Makes three of eleven files bad (empty, truncated, not an image); returns their names."""
    (classes / "bee" / "empty.jpg").write_bytes(b"")
    (classes / "cat" / "text.jpg").write_text("hello")
    path = classes / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:-20])
    return [os.path.join("bee", "empty.jpg"), os.path.join("cat", "3.png"), "cat/text.jpg"]


def test_empty_files_are_named_at_once(classes):
    damage(classes)
    with pytest.raises(UserError, match=r"1 of 11 files .*bee/empty\.jpg.*skip_bad_images"):
        open_source("folder", str(classes))


def test_bad_images_are_found(classes):
    bad = damage(classes)
    (classes / "bee" / "empty.jpg").unlink()
    source = open_source("folder", str(classes))
    with pytest.raises(tf.errors.InvalidArgumentError):
        values(source)
    found = [os.path.relpath(path, classes) for path in find_bad_images(source)]
    assert found == bad[1:]
    all_names = names(source, classes)
    assert find_bad_images(source, [0, all_names.index("cat/text.jpg"), 1]) == [
        str(classes / "cat/text.jpg")
    ]
    assert find_bad_images(source, []) == []
    os.remove(source.describe(0))  # Deleted after the source was opened.
    assert len(find_bad_images(source)) == 3


def test_bad_images_are_skipped(classes, caplog):
    before = values(open_source("folder", str(classes)))
    bad = damage(classes)
    source = open_source("folder", str(classes), skip_bad_images=True)
    assert [os.path.relpath(path, classes) for path in source.bad_images] == bad
    assert source.num_examples == 8 == len(source.labels)
    assert values(source) == [value for value in before if value != 103]
    np.testing.assert_array_equal(source.labels, [0] * 2 + [1] * 3 + [2] * 3)
    assert find_bad_images(source) == []
    again = open_source("folder", str(classes), skip_bad_images=True)
    assert source.fingerprint == again.fingerprint
    part = open_source("folder", str(classes), "train[:50%]", skip_bad_images=True)
    rest = open_source("folder", str(classes), "train[50%:]", skip_bad_images=True)
    assert sorted(values(part) + values(rest)) == sorted(values(source))
    assert sorted(part.bad_images + rest.bad_images) == source.bad_images


def test_skipping_nothing_changes_nothing(classes):
    plain = open_source("folder", str(classes))
    checked = open_source("folder", str(classes), skip_bad_images=True)
    assert checked.fingerprint == plain.fingerprint and checked.bad_images == []
    assert values(checked) == values(plain)


def test_nothing_good(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_text("no image")
    with pytest.raises(UserError, match="none of 2 images"):
        open_source("folder", str(tmp_path), skip_bad_images=True)


def test_remote_folders_are_listed_through_tensorflow(classes):
    local = open_source("folder", str(classes))
    remote = open_source("folder", f"file://{classes}")
    assert values(remote) == values(local)
    assert remote.class_names == local.class_names
    np.testing.assert_array_equal(remote.labels, local.labels)
    assert remote.describe(0) == f"file://{classes}/ant/0.png"


def test_says_where_it_may_not_look(classes, monkeypatch):
    scandir = os.scandir

    def forbidden(path):
        if path.endswith(b"bee"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(folder_module.os, "scandir", forbidden)
    with pytest.raises(UserError, match="bee.*Permission denied"):
        open_source("folder", str(classes))
