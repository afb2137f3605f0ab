"""A folder's listing is kept from one start to the next."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.data.folder_times import settle
from tf_simclr.config import Config
from tf_simclr.data import listing as listing_module
from tf_simclr.data.sources import in_memory, open_source
from tf_simclr.tasks import build, inputs
from tf_simclr.workdir import Workdir

PNG = tf.io.encode_png(np.zeros([2, 3, 3], np.uint8)).numpy()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in ("b/2.png", "a/1.png", "a/deep/3.png", "a/10.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    (root / "empty").mkdir()
    (tmp_path / "outside.png").write_bytes(PNG)
    (root / "b" / "link.png").symlink_to(tmp_path / "outside.png")
    settle(root)
    return root


@pytest.fixture
def looked(monkeypatch):
    """The folders that were listed."""
    seen = []
    scan = listing_module._list_folder
    monkeypatch.setattr(
        listing_module, "_list_folder", lambda *args: seen.append(args[2]) or scan(*args)
    )
    return seen


@pytest.fixture
def kept(tmp_path):
    """The file of the kept listing."""
    return tmp_path / "listing.npz"


def remembered(folder, kept, **options):
    """The source of a folder, after its listing was kept."""
    source = open_source("folder", str(folder), listing_file=str(kept), **options)
    source.remember()
    return source


def names(source):
    return [source.describe(index) for index in range(source.num_examples)]


@pytest.mark.parametrize("follow_links", [False, True])
def test_the_same_without_looking(folder, kept, looked, follow_links, caplog):
    options = {"follow_links": follow_links, "listing_file": str(kept)}
    first = open_source("folder", str(folder), **options)
    assert looked and (follow_links or "link.png" in caplog.text)
    assert not kept.exists()  # Opening writes nothing.
    in_memory(first.take(np.arange(2))).remember()  # Remembers as much as the whole source would.
    looked.clear()
    caplog.clear()
    again = open_source("folder", str(folder), **options)
    assert not looked and (follow_links or "link.png" in caplog.text)
    assert names(again) == names(first) and again.num_examples == 4 + follow_links
    assert again.fingerprint == first.fingerprint and again.class_names == first.class_names
    np.testing.assert_array_equal(again.labels, first.labels)
    written = kept.stat().st_mtime_ns
    again.remember()
    assert kept.stat().st_mtime_ns == written  # There was nothing new to write.


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a" / "deep" / "4.png").write_bytes(PNG),
        lambda root: (root / "a" / "1.png").unlink(),
        lambda root: (root / "empty" / "5.png").write_bytes(PNG),
        lambda root: (root / "c").mkdir(),
        lambda root: (root / "b" / "2.png").rename(root / "b" / "6.png"),
    ],
    ids=["added", "removed", "in an empty folder", "a folder", "renamed"],
)
def test_looks_again_after_a_change(folder, kept, looked, change):
    remembered(folder, kept)
    change(folder)
    looked.clear()
    source = open_source("folder", str(folder), listing_file=str(kept))
    assert looked and names(source) == names(open_source("folder", str(folder)))


def test_not_kept_if_a_later_change_could_go_unnoticed(folder, kept):
    (folder / "a" / "7.png").write_bytes(PNG)
    remembered(folder, kept)
    assert not kept.exists()  # The folder changed just now.
    settle(folder)
    (folder / "a" / "1.png").write_bytes(b"")  # Files may be overwritten in place.
    remembered(folder, kept, skip_bad_images=True)
    assert not kept.exists()
    (folder / "a" / "1.png").write_bytes(PNG)
    remembered(folder, kept)
    assert kept.exists()


def test_without_a_file_to_keep_it_in_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setattr(listing_module, "to_bytes", lambda *_: pytest.fail("a listing was made"))
    open_source("folder", str(folder)).remember()
    open_source("digits").remember()


def test_of_another_folder_or_other_links_is_not_used(folder, kept, looked, tmp_path):
    remembered(folder, kept)
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    settle(tmp_path / "copy")
    for where, options in ((tmp_path / "copy", {}), (folder, {"follow_links": True})):
        looked.clear()
        open_source("folder", str(where), listing_file=str(kept), **options)
        assert looked


def test_one_that_cannot_be_read_is_not_used(folder, kept, looked):
    kept.mkdir()
    assert open_source("folder", str(folder), listing_file=str(kept)).num_examples == 4
    assert looked


def changed(kept, **arrays):
    with np.load(io.BytesIO(kept)) as old:
        file = io.BytesIO()
        np.savez(file, **{**old, **arrays})
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: b"",
        lambda kept: kept[: len(kept) // 2],
        lambda kept: kept.replace(b"PK", b"KP"),
        lambda kept: b"\x93NUMPY" + kept,
        lambda kept: changed(kept, lengths=np.array([10**9] * 4)),
        lambda kept: changed(kept, names=np.frombuffer(b"../outside.png" * 4, np.uint8)),
        lambda kept: changed(kept, folders=np.frombuffer(b"../x\0" * 5, np.uint8)),
        lambda kept: changed(kept, changed=np.array([{}], object)),
        lambda kept: changed(kept, folders=np.zeros(0, np.uint8), lengths=np.zeros(0, np.int64)),
    ],
    ids=[
        *("empty", "half", "no zip", "an array", "lengths", "leaves", "folder leaves", "pickle"),
        "no folder",
    ],
)
def test_a_damaged_or_forged_one_is_not_used(folder, kept, looked, damage):
    source = remembered(folder, kept)
    kept.write_bytes(damage(kept.read_bytes()))
    looked.clear()
    again = open_source("folder", str(folder), listing_file=str(kept))
    assert looked and names(again) == names(source)


def test_lies_in_the_workdir(folder, looked, tmp_path):
    config = Config(workdir=str(tmp_path / "run"), dataset="folder", data_dir=str(folder))
    source = inputs.source_of(config, "train")
    Workdir(config.workdir).write_settings(build.identity_of(config))
    source.remember()
    assert (tmp_path / "run" / "listing.npz").exists()
    looked.clear()
    assert names(inputs.source_of(config, "train")) == names(source) and not looked
