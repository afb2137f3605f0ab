"""Lists of images to leave out, and the count of exact copies."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.data import exclusion
from tf_simclr.data.copies import count_copies
from tf_simclr.data.sources import open_source
from tf_simclr.errors import UserError

ODD = [
    b"a 'quoted' \"name\".png",
    b"line\nbreak.png",
    b"\xff\xfe.png",
    b"<b>&.png",
    "é{}.png".encode(),
]


@pytest.fixture
def folder(tmp_path):
    """A folder with images in two classes; those in "odd" have odd names."""
    root = os.fsencode(tmp_path / "photos")
    for i, name in enumerate([*(b"odd/" + odd for odd in ODD), b"plain/1.png", b"plain/2.png"]):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(tf.io.encode_png(np.full([4, 4, 3], i, np.uint8)).numpy())
    return os.fsdecode(root)


def write(tmp_path, text):
    path = tmp_path / "exclude.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("ascii"))
    return str(path)


def test_odd_names_survive_the_list(folder, tmp_path):
    source = open_source("folder", folder)
    names = source.names(np.arange(source.num_examples))
    odd = [exclusion.key_of(source, name) for name in names if "/odd/" in name]
    assert sorted(map(os.fsencode, odd)) == sorted(b"odd/" + name for name in ODD)
    text = exclusion.to_lines({"path": key} for key in odd)
    assert len(text.splitlines()) == len(ODD)
    path = write(tmp_path, text)
    assert exclusion.read_list(path) == set(odd)
    left = open_source("folder", folder, exclude_list=path)
    assert left.names(np.arange(left.num_examples)) == [n for n in names if "/plain/" in n]
    assert left.left_out == len(ODD) and left.fingerprint != source.fingerprint
    np.testing.assert_array_equal(left.labels, [1, 1])
    assert [int(left.load(tf.constant(i, tf.int64))[0, 0, 0]) for i in range(2)] == [5, 6]


def test_entries_that_match_nothing_are_named(folder, tmp_path, caplog):
    path = write(tmp_path, '"plain/1.png"\n\n{"path": "gone.png", "kept": "plain/2.png"}\n')
    with caplog.at_level("WARNING"):
        source = open_source("folder", folder, exclude_list=path)
    assert source.num_examples == len(ODD) + 1
    assert "1 of 2 entries" in caplog.text and "gone.png" in caplog.text
    nothing = write(tmp_path, '"gone.png"')
    same = open_source("folder", folder, exclude_list=nothing)
    assert same.fingerprint == open_source("folder", folder).fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("plain/1.png\n", "line 1: must be JSON"),
        ('"plain/1.png"\n{"name": "x"}\n', "line 2: must be JSON"),
        ("[1]", "line 1: must be JSON"),
        (b"\xff\xfe", "line 1: must be JSON"),
        ("[" * 100_000, "line 1: must be JSON"),
    ],
)
def test_a_list_that_is_none_is_refused(folder, tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        open_source("folder", folder, exclude_list=write(tmp_path, text))


def test_a_list_that_is_not_there_or_names_all_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_source("folder", folder, exclude_list=str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read"):
        open_source("folder", folder, exclude_list=str(tmp_path))
    source = open_source("folder", folder)
    names = source.names(np.arange(source.num_examples))
    path = write(tmp_path, exclusion.to_lines({"path": exclusion.key_of(source, n)} for n in names))
    with pytest.raises(UserError, match="names all 7 images"):
        open_source("folder", folder, exclude_list=path)


def test_images_without_files_have_names_too(tmp_path):
    source = open_source("digits", split="test")
    keys = [exclusion.key_of(source, source.describe(row)) for row in (3, 5)]
    path = write(tmp_path, "".join(json.dumps(key) + "\n" for key in keys))
    left = open_source("digits", split="test", exclude_list=path)
    np.testing.assert_array_equal(left.images, np.delete(source.images, [3, 5], axis=0))


def copies_of(tmp_path, contents):
    folder = tmp_path / "files"
    folder.mkdir()
    for i, content in enumerate(contents):
        (folder / f"{i:03d}.png").write_bytes(content)
    return open_source("folder", str(folder))


def test_counts_equal_files(tmp_path):
    contents = [b"aa", b"ab", b"aa", b"aa", b"c" * 9, b"d" * 8, b"d" * 8, b"e" * 7]
    copies = count_copies(copies_of(tmp_path, contents))
    assert (copies.found, copies.estimated, copies.files) == (3, 3, 8)
    assert copies.in_words() == "3 of 8 files are exact copies of others"


def test_estimates_from_some_files(tmp_path):
    """Ten sizes, each of four files with two pairs: half of the files are copies."""
    contents = [bytes([pair]) * size for size in range(1, 11) for pair in (1, 2, 1, 2)]
    source = copies_of(tmp_path, contents)
    copies = count_copies(source, most_files=12)
    assert (copies.found, copies.estimated) == (6, 20)
    assert copies.in_words().startswith("about 20 of 40")
    few = count_copies(source, most_bytes=4)  # Only the files of one byte.
    assert (few.found, few.estimated) == (2, 20)


def test_no_count_without_files():
    assert count_copies(open_source("digits")) is None
