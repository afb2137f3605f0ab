"""Files in a folder that are not read as images are counted, named, and kept with the listing."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.data.folder_times import settle
from tf_simclr.data import listing as listing_module
from tf_simclr.data.listing import SYSTEM_FOLDERS, Scan
from tf_simclr.data.sources import find_bad_images, open_source
from tf_simclr.errors import UserError

PNG = tf.io.encode_png(np.zeros([4, 5, 3], np.uint8)).numpy()


def write(root, *names):
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)


def files(source, root):
    return [os.path.relpath(source.describe(i), root) for i in range(source.num_examples)]


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JFIF", "Jpe"])
def test_other_endings_of_jpegs_are_read(tmp_path, ending):
    Image.fromarray(np.full([8, 9, 3], 120, np.uint8)).save(tmp_path / f"a.{ending}", "jpeg")
    write(tmp_path, "b.png")
    source = open_source("folder", str(tmp_path))
    assert files(source, tmp_path) == [f"a.{ending}", "b.png"]
    assert source.load(tf.constant(0, tf.int64)).shape == (8, 9, 3) and not find_bad_images(source)


def test_other_files_are_counted_by_ending(tmp_path, caplog):
    write(tmp_path, *(f"a/{i}.webp" for i in range(7)), *(f"b/{i}.TIFF" for i in range(3)))
    write(
        tmp_path, "notes.txt", "a/README", "a/photo.0001", "a/.hidden", "b/.cache/x.webp", "0.png"
    )
    source = open_source("folder", str(tmp_path))
    assert source.num_examples == 1
    assert ".webp 7, .tiff 3, no ending 2, .txt 1." in source.passed_over
    assert source.passed_over in caplog.text and "convert other images" in caplog.text


def test_nothing_passed_over_says_nothing(tmp_path, caplog):
    write(tmp_path, "a/0.png", "b/0.png")
    assert open_source("folder", str(tmp_path)).passed_over == "" and not caplog.records


@pytest.mark.parametrize("splits", [False, True])
def test_a_class_without_an_image_is_named(tmp_path, caplog, splits):
    root = tmp_path / "train" if splits else tmp_path
    write(root, "ant/0.png", "bee/0.png", "cat/0.webp", "cat/deep/1.webp", "dog/")
    if splits:
        write(tmp_path, "test/ant/0.png", "test/cat/0.png")
    source = open_source("folder", str(tmp_path))
    assert source.labels.tolist() == [0, 1]
    assert "No image is in the sub-folder(s) cat (.webp 2), dog (empty)." in caplog.text


def test_an_error_counts_them_too(tmp_path):
    write(tmp_path, "a/0.webp", "b/1.heic")
    with pytest.raises(UserError, match=r"no image in .*\.heic 1, \.webp 1"):
        open_source("folder", str(tmp_path))


@pytest.mark.parametrize(
    "name", [*sorted(map(os.fsdecode, SYSTEM_FOLDERS)), "@eaDir", "$RECYCLE.BIN", "__MACOSX"]
)
def test_folders_of_systems_are_passed_over(tmp_path, caplog, name):
    write(tmp_path, "a/0.png", "b/0.png", f"a/{name}/0.png", f"b/{name}/deep/0.png")
    write(tmp_path, f"{name}/x/0.png")
    source = open_source("folder", str(tmp_path))
    assert files(source, tmp_path) == ["a/0.png", "b/0.png"] and source.class_names == ("a", "b")
    assert f"{name.lower()}/ 3." in caplog.text


def test_hidden_ones_are_not_counted(tmp_path, caplog):
    write(tmp_path, "0.png", "._0.png", ".ipynb_checkpoints/0-checkpoint.png", ".DS_Store")
    assert files(open_source("folder", str(tmp_path)), tmp_path) == ["0.png"]
    assert not caplog.records


def test_a_system_folder_may_be_the_data_set(tmp_path):
    write(tmp_path, "lost+found/0.png")
    assert open_source("folder", str(tmp_path / "lost+found")).num_examples == 1


def test_remote_folders_are_counted_alike(tmp_path):
    write(tmp_path, "a/0.png", "b/0.png", "a/1.webp", "b/README", "@eaDir/0.png")
    local, remote = (open_source("folder", f"{way}{tmp_path}") for way in ("", "file://"))
    assert files(remote, f"file://{tmp_path}") == files(local, tmp_path)
    assert remote.passed_over == local.passed_over and ".webp 1" in local.passed_over


def test_counts_are_kept_with_the_listing(tmp_path, tmp_path_factory, monkeypatch, caplog):
    write(tmp_path, "a/0.png", "b/0.png", "a/1.webp", "a/2.webp", "b/x", "b/@eaDir/0.png", "c/0.gz")
    settle(tmp_path)
    file = str(tmp_path_factory.mktemp("kept") / "listing.npz")
    first = open_source("folder", str(tmp_path), listing_file=file)
    first.remember()
    said = caplog.text
    caplog.clear()
    monkeypatch.setattr(listing_module, "_list_folder", None)  # Must not be called again.
    again = open_source("folder", str(tmp_path), listing_file=file)
    assert again.passed_over == first.passed_over != "" and "c (.gz 1)" in said
    assert caplog.text == said


def test_names_without_end_do_not_fill_the_counts(tmp_path):
    for i in range(200):
        (tmp_path / f"photo.{i:04x}a").write_bytes(b"")
    write(tmp_path, "0.png")
    skipped = Scan(os.fsencode(tmp_path), False)(os.fsencode(tmp_path)).skipped
    assert len(skipped) <= 51 and sum(skipped.values()) == 200
    assert len(open_source("folder", str(tmp_path)).passed_over) < 500
