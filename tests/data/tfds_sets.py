"""Prepares TFDS sets without a builder's code."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

tfds = pytest.importorskip("tensorflow_datasets")

COUNT = 60


def pixels(split, i, side=6, channels=3):
    rng = np.random.default_rng([i, split == "test"])
    return rng.integers(0, 256, [side, side + 1, channels], np.uint8)


def prepare(
    data_dir, name, *, shape=(6, 7, 3), labelled=True, label=lambda i: i % 3, shards=3, **more
):
    """Writes a data set that has no builder's code.

    `more` are additional features: a feature, which holds the image again, or (feature, function
    from i to its value).
    """
    more = {
        name: feature if isinstance(feature, tuple) else (feature, None)
        for name, feature in more.items()
    }
    features = {"image": tfds.features.Image(shape=shape), "id": np.int64}
    features.update({name: feature for name, (feature, _) in more.items()})
    if labelled:
        features["label"] = tfds.features.ClassLabel(names=["red", "green", "blue"])
    features = tfds.features.FeaturesDict(features)
    folder = os.path.join(data_dir, name, "1.0.0")
    os.makedirs(folder)
    infos = []
    for split, count in (("train", COUNT), ("test", 7)):
        lengths = [len(part) for part in np.array_split(np.arange(count), shards)]
        first = 0
        for shard, length in enumerate(lengths):
            file = f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(os.path.join(folder, file)) as writer:
                for i in range(first, first + length):
                    side = shape[0] or 5 + i % 4
                    example = {"image": pixels(split, i, side, shape[2]), "id": i}
                    for key, (_, value) in more.items():
                        example[key] = value(i) if value else example["image"]
                    if labelled:
                        example["label"] = label(i)
                    example = features.encode_example(example)
                    writer.write(features.serialize_example(example))
            first += length
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1000))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    info = os.path.join(folder, "dataset_info.json")
    with open(info) as file:
        text = file.read()
    with open(info, "w") as file:
        file.write(text.replace('"my_dataset"', f'"{name}"'))
    return folder
