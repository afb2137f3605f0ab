"""Prepared TFDS sets, in memory or by record, without a builder's code or network access."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest
import tensorflow as tf

from tests.data.tfds_sets import COUNT, pixels, prepare
from tf_simclr.data import sources
from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import find_bad_images, in_memory, open_source
from tf_simclr.data.tfrecords import record_offsets
from tf_simclr.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    prepare(path, "fixed")
    prepare(path, "varied", shape=(None, None, 3))
    prepare(path, "bare", labelled=False)
    prepare(path, "withheld", label=lambda i: -1)
    prepare(path, "grey", shape=(6, 7, 1), shards=1)
    prepare(path, "pair", second=tfds.features.Image(shape=(6, 7, 3)))
    return path


@pytest.fixture
def by_record(monkeypatch):
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def loaded(source, indices=None):
    indices = np.arange(source.num_examples) if indices is None else indices
    dataset = tf.data.Dataset.from_tensor_slices(indices).map(source.load, tf.data.AUTOTUNE)
    return [image.numpy() for image in dataset]


def all_files(root):
    return {
        os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_mtime_ns
        for folder, _, names in os.walk(root)
        for name in names
    }


def test_in_memory(data_dir):
    before = all_files(data_dir)
    source = open_source("fixed", data_dir)
    np.testing.assert_array_equal(source.images, [pixels("train", i) for i in range(COUNT)])
    np.testing.assert_array_equal(source.labels, np.arange(COUNT) % 3)
    assert source.class_names == ("red", "green", "blue")
    assert (source.num_examples, source.channels) == (COUNT, 3)
    test = open_source("fixed", data_dir, "test")
    np.testing.assert_array_equal(test.images, [pixels("test", i) for i in range(7)])
    assert test.fingerprint != source.fingerprint
    assert source.fingerprint == open_source("fixed", data_dir).fingerprint
    assert all_files(data_dir) == before  # Reading writes nothing.


def test_by_record_is_the_same(data_dir, by_record):
    source = open_source("fixed", data_dir)
    assert source.images is None
    order = np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_array_equal(loaded(source, order), [pixels("train", i) for i in order])
    np.testing.assert_array_equal(source.labels, np.arange(COUNT) % 3)
    encoded = source.encoded(tf.constant(41, tf.int64))
    np.testing.assert_array_equal(tf.io.decode_image(encoded), pixels("train", 41))
    assert source.describe(COUNT - 1).endswith("tfrecord-00002-of-00003, record 19")
    assert find_bad_images(source) == []


def test_sizes_that_vary_are_read_by_record(data_dir):
    source = open_source("varied", data_dir)
    assert source.images is None
    for i, image in enumerate(loaded(source)):
        np.testing.assert_array_equal(image, pixels("train", i, 5 + i % 4))


@pytest.mark.parametrize("split", ["train[10:50]", "train[-25%:]", "test+train[:3]", "train[59:]"])
def test_slices_are_those_of_tfds(data_dir, split, monkeypatch):
    expected = tfds.builder_from_directory(os.path.join(data_dir, "fixed", "1.0.0")).as_dataset(
        split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    images, labels = zip(*((e["image"].numpy(), e["label"].numpy()) for e in expected))
    for limit in (2**30, 0):
        monkeypatch.setattr(sources, "MEMORY_LIMIT", limit)
        source = open_source("fixed", data_dir, split)
        assert (source.images is None) == (limit == 0)
        np.testing.assert_array_equal(loaded(source), images)
        np.testing.assert_array_equal(source.labels, labels)


def test_cached_or_not_the_batches_have_the_same_bits(data_dir):
    options = {"batch_size": 8, "image_size": 5, "seed": 1}
    for name in ("fixed", "varied", "grey"):
        held, read = (open_source(name, data_dir, cache=cache) for cache in ("on", "off"))
        assert read.images is None and (held.images is None) == (name == "varied")
        held = in_memory(held)
        for one, two in zip(
            two_view_dataset(held, **options).take(3), two_view_dataset(read, **options)
        ):
            tf.nest.map_structure(np.testing.assert_array_equal, one, two)


def test_sets_of_one_shape_are_held_as_arrays(data_dir):
    whole = open_source("fixed", data_dir, cache="on")
    read = open_source("fixed", data_dir, cache="off")
    np.testing.assert_array_equal(in_memory(read).images, whole.images)
    side = min(whole.image_shape) // 2
    assert min(in_memory(read, shorter_side=side).image_shape) == side
    assert read.images is None


def test_without_labels(data_dir, monkeypatch):
    for limit in (2**30, 0):
        monkeypatch.setattr(sources, "MEMORY_LIMIT", limit)
        bare = open_source("bare", data_dir)
        assert bare.labels is None and bare.class_names is None
        assert open_source("withheld", data_dir).labels is None


def test_channels(data_dir, monkeypatch):
    grey = np.stack([pixels("train", i, channels=1) for i in range(COUNT)])
    for limit in (2**30, 0):
        monkeypatch.setattr(sources, "MEMORY_LIMIT", limit)
        source = open_source("grey", data_dir)
        assert source.channels == 1
        np.testing.assert_array_equal(loaded(source), grey)
        source = open_source("grey", data_dir, channels=3)
        np.testing.assert_array_equal(loaded(source), np.repeat(grey, 3, -1))
        assert loaded(open_source("fixed", data_dir, channels=1))[0].shape == (6, 7, 1)


def test_picks_the_image_by_its_usual_name(data_dir):
    assert open_source("pair", data_dir).num_examples == COUNT


def test_names(data_dir):
    folder = os.path.join(data_dir, "fixed", "1.0.0")
    assert open_source("fixed:1.0.0", data_dir).num_examples == COUNT
    assert open_source("fixed", folder).num_examples == COUNT
    with pytest.raises(UserError, match="holds 'fixed', not 'varied'"):
        open_source("varied", folder)
    with pytest.raises(UserError, match="unknown data set 'digts': did you mean 'digits'"):
        open_source("digts", data_dir)
    with pytest.raises(UserError, match="unknown data set 'fixd': did you mean 'fixed'"):
        open_source("fixd", data_dir)
    with pytest.raises(UserError, match="unknown data set 'cifar11'.*'cifar10"):
        open_source("cifar11", data_dir)


def test_says_how_to_prepare(data_dir):
    with pytest.raises(UserError, match=f"'cifar10' is not prepared.*--data_dir={data_dir}"):
        open_source("cifar10", data_dir)


def test_splits_that_are_not_there(data_dir):
    with pytest.raises(UserError, match="fixed has no split 'trian'; it has"):
        open_source("fixed", data_dir, "trian")
    for split in ("train[:x]", "train[:200%]", "train[:99]"):
        with pytest.raises(UserError, match="split="):
            open_source("fixed", data_dir, split)
    with pytest.raises(UserError, match="empty"):
        open_source("fixed", data_dir, "train[5:5]")


def test_damaged_records(tmp_path, monkeypatch):
    folder = prepare(str(tmp_path), "hurt", shards=1)
    path = os.path.join(folder, "hurt-train.tfrecord-00000-of-00001")
    with open(path, "rb") as file:
        whole = file.read()
    with open(path, "wb") as file:
        file.write(whole[:-10])
    for limit, message in ((2**30, "damaged"), (0, "ends inside record 59")):
        monkeypatch.setattr(sources, "MEMORY_LIMIT", limit)
        with pytest.raises(UserError, match=message):
            open_source("hurt", str(tmp_path))
    with open(path, "wb") as file:
        file.write(whole)
    flipped = bytearray(whole)
    flipped[record_offsets(path, 30, 1)[0] + 60] ^= 255
    with open(path, "wb") as file:
        file.write(flipped)
    source = open_source("hurt", str(tmp_path))  # Read by record, so damage is found when reading.
    assert len(find_bad_images(source)) == 1
    monkeypatch.setattr(sources, "MEMORY_LIMIT", 2**30)
    with pytest.raises(UserError, match="damaged"):
        open_source("hurt", str(tmp_path))


def test_never_downloads(tmp_path, monkeypatch):
    class Fetched(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 3))})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"image": np.zeros([4, 4, 3], np.uint8)}

    with pytest.raises(UserError, match="not prepared"):
        open_source("fetched", str(tmp_path))
    assert not all_files(tmp_path)
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "_is_gcs_disabled", True)
    tfds.builder("fetched", data_dir=str(tmp_path)).download_and_prepare()
    assert open_source("fetched", str(tmp_path)).num_examples == 1


@pytest.mark.parametrize("place", ["lr=[1e-3,2]", "back\\slash", "a*b? e\u0301"])
def test_a_folder_of_any_name_holds_prepared_sets(place, tmp_path):
    data_dir = str(tmp_path / place)
    prepare(data_dir, "odd_place")
    source = open_source("odd_place", data_dir, cache="off")
    assert source.num_examples == COUNT and len(source.labels) == COUNT
    with pytest.raises(UserError, match=r"is not prepared.*There are: odd_place/1\.0\.0"):
        open_source("mnist", data_dir)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_transparent_images_are_the_same_in_memory_and_by_record(channels, tmp_path):
    prepare(str(tmp_path), "transparent", shape=(6, 7, 4))
    held, read = (
        open_source("transparent", str(tmp_path), channels=channels, cache=cache)
        for cache in ("on", "off")
    )
    assert held.images is not None and read.images is None
    for index in range(3):
        np.testing.assert_array_equal(held.images[index], read.load(tf.constant(index, tf.int64)))
    if channels == 3:  # Blended over white, not without its alpha.
        alpha = pixels("train", 0, channels=4)[..., 3:] / 255
        blended = pixels("train", 0, channels=4)[..., :3] * alpha + 255 * (1 - alpha)
        np.testing.assert_allclose(held.images[0], blended, atol=1)
