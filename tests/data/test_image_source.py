"""Sources in memory, the digits, and the errors of `open_source` for wrong names."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import finish_views
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import array_source, find_bad_images, open_source
from tf_simclr.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, [10, 6, 8, 5], np.uint8)


def test_arrays():
    source = array_source(IMAGES, labels=[3, 0] * 5, name="mine")
    assert source.images is IMAGES
    assert (source.name, source.split, source.num_examples) == ("mine", "train", 10)
    assert source.channels == 5
    assert source.class_names == ("0", "1", "2", "3") and source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.load(tf.constant(7, tf.int64)), IMAGES[7])
    dataset = tf.data.Dataset.range(10).map(source.load, tf.data.AUTOTUNE)
    np.testing.assert_array_equal(list(dataset), IMAGES)
    assert find_bad_images(source) == []
    with pytest.raises(TypeError, match="in memory"):
        source.encoded(0)


def test_arrays_without_labels():
    source = array_source(IMAGES, class_names=["a"])
    assert source.labels is None and source.class_names is None


def test_loads_in_a_graph_before_it_loads_outside():
    source = array_source(IMAGES)
    first = next(iter(tf.data.Dataset.range(1).map(source.load)))
    np.testing.assert_array_equal(first, source.load(tf.constant(0, tf.int64)))


def test_parts():
    source = array_source(IMAGES, labels=np.arange(10))
    part = source.take(np.array([4, 2, 9])).take(np.array([2, 0]))
    np.testing.assert_array_equal(part.images, IMAGES[[9, 4]])
    np.testing.assert_array_equal(part.labels, [9, 4])
    assert part.class_names == source.class_names and part.num_examples == 2
    np.testing.assert_array_equal(part.load(tf.constant(1, tf.int64)), IMAGES[4])
    assert source.take(np.arange(3)).labels.tolist() == [0, 1, 2]
    assert array_source(IMAGES).take(np.arange(3)).labels is None


def test_fingerprint_is_of_the_contents():
    changed = IMAGES.copy()
    changed[9, 5, 7, 4] ^= 1
    labels = np.arange(10)
    sources = [
        array_source(IMAGES),
        array_source(changed),
        array_source(IMAGES.reshape(10, 8, 6, 5)),
        array_source(IMAGES, labels),
        array_source(IMAGES, labels[::-1]),
        array_source(IMAGES).take(np.arange(5)),
        array_source(IMAGES).take(np.arange(5) + 1),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert array_source(IMAGES.copy(), name="x").fingerprint == sources[0].fingerprint
    strided = np.repeat(IMAGES, 2, axis=0)[::2]
    assert array_source(strided).fingerprint == sources[0].fingerprint


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float32), IMAGES[..., 0], IMAGES[:0], IMAGES[:, :0]],
    ids=["float", "rank 3", "none", "no rows"],
)
def test_refuses_what_are_no_images(images):
    with pytest.raises(UserError, match=r"uint8 array \[N, H, W, C\].* at least one"):
        array_source(images)


@pytest.mark.parametrize(
    "labels", [np.arange(9), np.arange(10.0), np.arange(10) - 1, [[0]] * 10, []]
)
def test_refuses_what_are_no_labels(labels):
    with pytest.raises(UserError, match="10 integers from 0"):
        array_source(IMAGES, labels)


def test_refuses_too_few_names():
    with pytest.raises(UserError, match="2 names for 10 classes"):
        array_source(IMAGES, np.arange(10), ["a", "b"])


def test_digits():
    train, test = open_source("digits"), open_source("digits", split="test")
    assert (train.num_examples, test.num_examples) == (1297, 500)
    assert (train.channels, train.images.shape[1:3], train.split) == (1, (8, 8), "train")
    assert train.class_names == tuple("0123456789") and test.split == "test"
    for source in (train, test):
        assert (source.images.min(), source.images.max()) == (0, 255)
        share = np.bincount(source.labels) / source.num_examples
        assert np.abs(share - 0.1).max() < 0.006
    rows = np.concatenate([train.images, test.images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    np.testing.assert_array_equal(
        np.unique(rows, axis=0),
        np.unique(np.round(load_digits().data * (255 / 16)).astype(np.uint8), axis=0),
    )
    assert train.fingerprint == open_source("digits").fingerprint != test.fingerprint


def test_digits_in_slices_and_colour():
    whole = open_source("digits")
    parts = [open_source("digits", split=f"train[{cut}]") for cut in (":80%", "80%:")]
    assert [part.num_examples for part in parts] == [1038, 259]
    assert np.bincount(parts[1].labels).min() >= 24
    together = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(
        np.sort(together.reshape(1297, -1).sum(1)), np.sort(whole.images.reshape(1297, -1).sum(1))
    )
    colour = open_source("digits", channels=3)
    np.testing.assert_array_equal(colour.images, np.repeat(whole.images, 3, -1))
    np.testing.assert_array_equal(colour.labels, whole.labels)
    with pytest.raises(UserError, match="splits train and test; received 'valid'"):
        open_source("digits", split="valid")


def test_refuses_channels_there_are_not():
    for channels in (2, 4):
        with pytest.raises(UserError, match=f"1 or 3; received {channels}"):
            open_source("digits", channels=channels)


def test_pipeline_takes_files_and_arrays_alike(tmp_path):
    for index, image in enumerate(IMAGES[..., :3]):
        (tmp_path / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    plain = {"color_jitter_strength": 0.0, "grayscale_probability": 0.0, "blur": False}
    files, arrays = open_source("folder", str(tmp_path)), array_source(IMAGES[..., :3])
    for make in (
        lambda source: eval_dataset(source, batch_size=4, image_size=6),
        lambda source: two_view_dataset(source, batch_size=4, image_size=6, seed=1, **plain)
        .take(3)
        .map(finish_views),
    ):
        for a, b in zip(make(files), make(arrays)):
            np.testing.assert_allclose(a, b, atol=1.01 / 255)
