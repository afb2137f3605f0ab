"""Decoded images in memory: the same images, decoded only once."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.data import in_memory as in_memory_module
from tf_simclr.data.in_memory import in_memory
from tf_simclr.data.pipeline import labelled_dataset, two_view_dataset
from tf_simclr.data.sources import array_source, memory_limit, open_source
from tf_simclr.errors import UserError

SIZES = [(20, 31), (1, 1), (16, 16), (90, 12), (33, 64), (7, 200)]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index, size in enumerate(SIZES):
        image = rng.integers(0, 256, [*size, 3], np.uint8)
        encode = tf.io.encode_png if index % 2 else tf.io.encode_jpeg
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[index % 2] / f"{index}.jpg").write_bytes(encode(image).numpy())
    return tmp_path


def loaded(source):
    dataset = tf.data.Dataset.range(source.num_examples).map(source.load, tf.data.AUTOTUNE)
    return [image.numpy() for image in dataset]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_images(folder, channels):
    source = open_source("folder", str(folder), channels=channels)
    held = in_memory(source)
    assert held is not source and held.store.nbytes and not source.store.nbytes
    for one, two in zip(loaded(source), loaded(held)):
        np.testing.assert_array_equal(one, two)
    assert held.fingerprint == source.fingerprint and held.class_names == ("a", "b")
    assert held.describe(2) == source.describe(2)
    np.testing.assert_array_equal(held.labels, source.labels)


def test_files_are_no_longer_read(folder):
    held = in_memory(open_source("folder", str(folder)))
    for path in folder.glob("*/*"):
        path.unlink()
    assert [image.shape[:2] for image in loaded(held)] == SIZES[::2] + SIZES[1::2]


@pytest.mark.parametrize("make", [two_view_dataset, labelled_dataset])
def test_batches_have_the_same_bits(folder, make):
    source = open_source("folder", str(folder))
    options = {"batch_size": 4, "image_size": 24, "seed": 3, "start_step": 5}
    for one, two in zip(make(source, **options).take(3), make(in_memory(source), **options)):
        tf.nest.map_structure(np.testing.assert_array_equal, one, two)


def test_parts_of_what_is_held(folder):
    source = open_source("folder", str(folder))
    rows = np.array([4, 1])
    part = in_memory(source).take(rows)
    for got, row in zip(loaded(part), rows):
        np.testing.assert_array_equal(got, loaded(source)[row])
    for one, two in zip(loaded(part), loaded(in_memory(part))):
        np.testing.assert_array_equal(one, two)


def test_not_beyond_the_limit(folder):
    source = open_source("folder", str(folder))
    size = 3 * sum(height * width for height, width in SIZES)
    assert in_memory(source, size) is not source
    assert in_memory(source, size - 1) is source
    assert in_memory(source, 10) is source  # Decided from a sample of the headers.


def bmp(height, width):
    """The header of a BMP."""
    return b"BM" + b"\0" * 16 + struct.pack("<II", width, height) + b"\0" * 38


@pytest.mark.parametrize(
    "contents",
    [b"", b"\xff\xd8\xff\xe0nonsense", b"no image", bmp(2**31, 2**31), bmp(2**20, 2**31 - 1)],
    ids=["empty", "jpeg", "text", "beyond int64", "petabytes"],
)
def test_an_unreadable_image_is_left_to_who_loads_it(folder, contents):
    source = open_source("folder", str(folder))
    (folder / "a" / "2.jpg").write_bytes(contents)
    assert in_memory(source) is source and in_memory(source, 2**30) is source


def test_too_much_for_the_machine_is_told(folder, monkeypatch):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(in_memory_module, "_aligned", refuse)
    source = open_source("folder", str(folder))
    with pytest.raises(UserError, match=r"6 images take 0\.0 GiB .*leave out --cache=on"):
        in_memory(source)
    with pytest.raises(UserError, match=r"6 images take 0\.0 GiB .*pass a smaller --cache_side"):
        in_memory(source, shorter_side=12)


def test_a_half_image_is_left_to_who_loads_it(folder):
    path = folder / "a" / "4.jpg"
    source = open_source("folder", str(folder))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert in_memory(source) is source


def test_arrays_are_in_memory():
    source = array_source(np.zeros([3, 2, 2, 1], np.uint8))
    assert in_memory(source, 0) is source


def reduced(image, size):
    """Computes each pixel as the mean over its area, from whole and partial pixels."""
    matrices = []
    for old, new in zip(image.shape, size):
        edges = np.linspace(0, old, new + 1)
        low, high = edges[:-1, None], edges[1:, None]
        pixel = np.arange(old)[None]
        overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
        matrices.append(overlap / (high - low))
    return np.einsum("yh,xw,hwc->yxc", *matrices, image.astype(np.float64))


def test_larger_images_are_reduced(folder):
    source = open_source("folder", str(folder))
    held = in_memory(source, shorter_side=12)
    for before, after in zip(loaded(source), loaded(held)):
        height, width = before.shape[:2]
        scale = min(1, 12 / min(height, width))
        size = round(height * scale), round(width * scale)
        assert after.shape == (*size, 3)
        if scale == 1:
            np.testing.assert_array_equal(after, before)
        else:
            # Half a step of rounding, plus the error of a mean in float32.
            assert np.abs(after - reduced(before, size)).max() < 0.502
    assert held.fingerprint == source.fingerprint


def test_arrays_are_reduced():
    images = np.random.default_rng(0).integers(0, 256, [5, 16, 24, 3], np.uint8)
    source = array_source(images, np.arange(5))
    assert in_memory(source, shorter_side=16) is source
    held = in_memory(source, shorter_side=8)
    assert held.image_shape == (8, 12) and source.images is images
    means = images.reshape(5, 8, 2, 12, 2, 3).mean(axis=(2, 4))
    for got, mean in zip(loaded(held), means):
        assert np.abs(got - mean).max() <= 0.5
    batch = next(iter(two_view_dataset(held, batch_size=4, image_size=6)))
    assert batch["images"].shape == [4, 2, 6, 6, 3]
    np.testing.assert_array_equal(held.labels, np.arange(5))


def test_what_is_held_can_be_reduced_further_and_divided(folder):
    source = open_source("folder", str(folder))
    rows = np.array([4, 1])
    held = in_memory(source, shorter_side=24)
    assert in_memory(held) is held
    for got, row in zip(loaded(held.take(rows)), rows):
        np.testing.assert_array_equal(got, loaded(held)[row])
    again = in_memory(held, shorter_side=12)
    for got, before in zip(loaded(again), loaded(held)):
        assert min(got.shape[:2]) == min(12, *before.shape[:2])
    of_array = in_memory(array_source(np.zeros([3, 8, 8, 1], np.uint8)), shorter_side=4)
    assert in_memory(of_array) is of_array
    assert loaded(of_array.take(rows[1:]))[0].shape == (4, 4, 1)


def test_nothing_to_reduce_is_no_reason_to_refuse():
    source = array_source(np.zeros([3, 8, 8, 1], np.uint8))
    assert in_memory(source, 10, shorter_side=8) is source


@pytest.mark.parametrize("most_bytes", [2_000, 500, 0])
def test_reduced_images_that_do_not_fit_are_told(folder, most_bytes):
    """Training on the unreduced images instead would change the run."""
    source = open_source("folder", str(folder))
    with pytest.raises(UserError, match=r"side of 12 pixels .* --cache=on"):
        in_memory(source, most_bytes, shorter_side=12)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda contents: contents[: len(contents) // 2],
        lambda contents: bmp(2**20, 2**31 - 1),
        lambda contents: bmp(1, 2**31 - 1),
        lambda contents: b"",
    ],
    ids=["half", "petabytes", "gigabytes", "empty"],
)
@pytest.mark.parametrize("most_bytes", [2**30, np.inf])
def test_an_image_that_cannot_be_reduced_is_named(folder, spoil, most_bytes):
    source = open_source("folder", str(folder))
    path = folder / "a" / "4.jpg"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=r"1 of 6 files .*a/4\.jpg"):
        in_memory(source, most_bytes, shorter_side=12)


def test_limits_have_names():
    assert memory_limit("off") == 0 < memory_limit("auto") < memory_limit("on")
    with pytest.raises(UserError, match="cache.*'onn'.*mean 'on'"):
        memory_limit("onn")
    with pytest.raises(UserError, match="cache"):
        open_source("digits", cache="onn")
