"""Sources: digits, arrays, folders of all kinds of files, TFDS sets in memory and by record."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_simclr.data import sources as sources_module
from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import array_source, find_bad_images, open_source
from tf_simclr.errors import UserError

RNG = np.random.default_rng(0)


def picture(height=20, width=30, mode="RGB"):
    channels = {"L": None, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    shape = (height, width) if channels is None else (height, width, channels)
    return Image.fromarray(RNG.integers(0, 256, shape, np.uint8), mode)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


# digits and arrays


def test_digits_are_split_once_and_for_all():
    train, test = open_source("digits"), open_source("digits", split="test")
    assert (train.num_examples, test.num_examples, train.channels) == (1297, 500, 1)
    assert train.images.dtype == np.uint8 and train.images.max() == 255
    assert min(np.bincount(test.labels)) >= 48 and len(train.class_names) == 10
    seen = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in seen for image in test.images) <= 2  # The data has duplicates.
    assert train.fingerprint == open_source("digits").fingerprint != test.fingerprint
    with pytest.raises(UserError, match="digits has the splits train and test; received 'val'"):
        open_source("digits", split="val")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros([2, 4, 4, 3]), None, "received float64"),
        (np.zeros([4, 4, 3], np.uint8), None, r"received uint8 \[4, 4, 3\]"),
        (np.zeros([0, 4, 4, 3], np.uint8), None, "at least one image"),
        (np.zeros([2, 4, 4, 3], np.uint8), [0], "labels must be 2 integers"),
        (np.zeros([2, 4, 4, 3], np.uint8), [0, -1], "least -1"),
    ],
)
def test_bad_arrays_are_told(images, labels, message):
    with pytest.raises(UserError, match=message):
        array_source(images, labels)


# folders


@pytest.fixture
def zoo(tmp_path):
    """A folder with all kinds of image files, all decodable."""
    save(picture(), tmp_path / "a.jpg", quality=95)
    save(picture(mode="L"), tmp_path / "deep" / "er" / "b.JPEG")
    save(picture(mode="CMYK"), tmp_path / "c.jpg")
    save(picture(mode="RGBA"), tmp_path / "d.PNG")
    save(picture(mode="L"), tmp_path / "e.png")
    sixteen = Image.fromarray(RNG.integers(0, 65536, (20, 30)).astype(np.uint16))
    save(sixteen, tmp_path / "f.png")
    save(picture(), tmp_path / "g.gif", save_all=True, append_images=[picture()])
    save(picture(), tmp_path / "h.bmp")
    save(picture(mode="L"), tmp_path / "i.bmp")
    save(picture(1, 1), tmp_path / "j.png")
    save(picture(50, 20_000), tmp_path / "k.png")
    buffer = io.BytesIO()
    picture().save(buffer, "png")
    (tmp_path / "l.jpg").write_bytes(buffer.getvalue())  # A PNG named .jpg.
    (tmp_path / ".hidden.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    return tmp_path


@pytest.mark.parametrize("channels", [3, 1])
def test_every_kind_of_file_is_decoded(zoo, channels):
    source = open_source("folder", str(zoo), channels=channels)
    assert source.num_examples == 12 and source.labels is None and source.class_names is None
    load = tf.function(source.load)
    for i in range(12):
        image = load(tf.constant(i, tf.int64))
        assert image.dtype == tf.uint8 and image.shape[2] == channels, source.describe(i)
    batch = next(iter(two_view_dataset(source, batch_size=12, image_size=16)))
    assert batch["images"].shape == (12, 2, 16, 16, channels)
    assert find_bad_images(source) == []


def test_pixels_are_what_pil_says(tmp_path):
    rgb, grey = picture(), picture(mode="L")
    save(rgb, tmp_path / "a.png")
    save(grey, tmp_path / "b.png")
    source = open_source("folder", str(tmp_path))
    np.testing.assert_array_equal(source.load(tf.constant(0)), np.asarray(rgb))
    three = np.repeat(np.asarray(grey)[..., np.newaxis], 3, axis=2)
    np.testing.assert_array_equal(source.load(tf.constant(1)), three)


def test_order_and_fingerprint_do_not_depend_on_the_machine(tmp_path):
    for folder, names in (("one", "cab"), ("two", "bca")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "x.jpg").write_bytes(b"12345")
    one, two = (open_source("folder", str(tmp_path / name)) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert [os.path.relpath(one.describe(i), tmp_path / "one") for i in range(3)] == [
        os.path.join(name, "x.jpg") for name in "abc"
    ]
    (tmp_path / "two" / "a" / "x.jpg").write_bytes(b"123456")
    assert open_source("folder", str(tmp_path / "two")).fingerprint != one.fingerprint


def test_sub_folders_are_classes_and_split_folders_splits(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                save(picture(), tmp_path / split / name / "more" / f"{i}.png")
    train = open_source("folder", str(tmp_path))
    test = open_source("folder", str(tmp_path), split="test")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and test.labels.tolist() == [0, 0, 1, 1]
    half = open_source("folder", str(tmp_path), split="train[:50%]")
    assert half.num_examples == 3
    with pytest.raises(UserError, match="no split 'val': the folder .* has the splits train, test"):
        open_source("folder", str(tmp_path), split="val")
    save(picture(), tmp_path / "train" / "stray.png")
    assert open_source("folder", str(tmp_path)).labels is None


def test_bad_files_are_named_or_left_out(zoo):
    whole = (zoo / "a.jpg").read_bytes()
    (zoo / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (zoo / "bad.png").write_bytes(b"no image at all")
    bad = [str(zoo / "bad.png"), str(zoo / "cut.jpg")]
    source = open_source("folder", str(zoo))
    assert find_bad_images(source) == bad
    (zoo / "empty.gif").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 15 files cannot be decoded, or .*empty.gif.*Remove"):
        open_source("folder", str(zoo))
    source = open_source("folder", str(zoo), skip_bad_images=True)
    assert source.num_examples == 12
    assert sorted(source.bad_images) == sorted([*bad, str(zoo / "empty.gif")])


def test_a_decompression_bomb_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_simclr.data.decoding.MAX_PIXELS", 1000)
    save(picture(40, 40), tmp_path / "large.png")
    save(picture(40, 40), tmp_path / "large.jpg")
    save(picture(9, 9), tmp_path / "small.png")
    source = open_source("folder", str(tmp_path), skip_bad_images=True)
    assert source.num_examples == 1


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_missing_or_empty_folder_is_named(make, tmp_path):
    make(tmp_path / "photos")
    with pytest.raises(UserError, match="photos"):
        open_source("folder", str(tmp_path / "photos"))


# TFDS


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
    """A prepared TFDS data set of one image size, in two shards."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class TinySet(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(30), "test": self._generate_examples(7)}

        def _generate_examples(self, count):
            rng = np.random.default_rng(count)
            for i in range(count):
                image = rng.integers(0, 256, [8, 8, 3], np.uint8)
                yield i, {"image": image, "label": i % 3}

    config = tfds.download.DownloadConfig(num_shards=2)
    TinySet(data_dir=str(folder)).download_and_prepare(download_config=config)
    return str(folder)


def test_small_tfds_sets_live_in_memory(tiny_set):
    source = open_source("tiny_set", tiny_set)
    assert source.images.shape == (30, 8, 8, 3) and source.class_names == ("x", "y", "z")
    assert sorted(np.bincount(source.labels)) == [10, 10, 10]
    assert open_source("tiny_set", tiny_set, split="test").num_examples == 7


@pytest.mark.parametrize("split", ["train", "train[3:21]", "train[50%:]"])
def test_large_tfds_sets_are_read_record_by_record_in_any_order(tiny_set, split, monkeypatch):
    whole = open_source("tiny_set", tiny_set, split=split)
    monkeypatch.setattr(sources_module, "MEMORY_LIMIT", 0)
    source = open_source("tiny_set", tiny_set, split=split)
    assert source.images is None and source.num_examples == whole.num_examples
    np.testing.assert_array_equal(source.labels, whole.labels)
    order = np.random.default_rng(1).permutation(source.num_examples)
    dataset = tf.data.Dataset.from_tensor_slices(order).map(source.load, num_parallel_calls=2)
    for i, image in zip(order, dataset):
        np.testing.assert_array_equal(image, whole.images[i])


def test_wrong_names_and_missing_data_are_told(tiny_set, tmp_path):
    with pytest.raises(UserError, match="unknown data set 'cifar11': did you mean .*'cifar10"):
        open_source("cifar11", str(tmp_path))
    with pytest.raises(UserError, match=r"'cifar10' is not prepared in .*build cifar10 --data_dir"):
        open_source("cifar10", str(tmp_path))
    with pytest.raises(UserError, match="tiny_set has no split 'val'; it has .*train"):
        open_source("tiny_set", tiny_set, split="val")
