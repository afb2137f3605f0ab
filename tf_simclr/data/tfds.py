"""TFDS data sets as sources: small ones in memory, large ones record by record, in any order.

TFRecord files have no index; one pass over the headers makes it (three numbers a record), and from
then on any record can be asked for: a new global order every epoch and an exact start at any step,
with no stream to rewind. Reading one still passes over what lies before it in its file, so its time
grows with the record's offset (0.5 ms at the start of a file, 7 ms at 100 MB, on 2 busy cores).
"""

from __future__ import annotations

import os
import struct

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data.sources import Source, array_source, fingerprint
from tf_simclr.errors import UserError, unknown_name

IN_MEMORY_BYTES = 1 << 30  # Decoded sets up to this size are kept in memory.

_HEADER, _FOOTER = 12, 4  # TFRecord: length (8), its CRC (4), the data, the data's CRC (4).


def tfds_source(name: str, data_dir: str | None, split: str) -> Source:
    """Opens a TFDS data set that is prepared in `data_dir`; see `open_source`. No network."""
    builder = _builder(name, data_dir)
    try:
        info = builder.info.splits[split]
    except (ValueError, KeyError, AssertionError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{name} has no split {split!r}; it has {splits}.") from error
    features = builder.info.features
    image_key = _key_of(features, "image", "Image")
    label_key = _key_of(features, "label", "ClassLabel")
    if image_key is None:
        raise UserError(f"{name} has no image feature; its features are {sorted(features)}.")
    class_names = tuple(features[label_key].names) if label_key else None
    shape = features[image_key].shape
    size = info.num_examples * np.prod([side or np.inf for side in shape])
    title = builder.info.full_name
    if size <= IN_MEMORY_BYTES:
        images, labels = _decoded(builder, split, info.num_examples, image_key, label_key, shape)
        return array_source(images, labels, class_names, name, split)
    index = _index(info.file_instructions)
    return Source(
        name=name,
        split=split,
        num_examples=len(index["offset"]),
        channels=shape[2] or 3,
        fingerprint=fingerprint(title, split, str(len(index["offset"]))),
        labels=_labels(index, label_key) if label_key else None,
        class_names=class_names,
        encoded=lambda i: _parse(_record(index, i), image_key, tf.string),
        describe=lambda i: f"{index['file'][index['shard'][i]]} at byte {index['offset'][i]}",
    )


def _builder(name: str, data_dir: str | None):
    import tensorflow_datasets as tfds  # Slow to import.

    try:
        builder = tfds.builder(
            name, data_dir=os.path.expanduser(data_dir) if data_dir else None, try_gcs=False
        )
    except tfds.core.DatasetNotFoundError as error:
        choices = ["digits", "folder", *tfds.list_builders()]
        raise unknown_name("data set", name, choices) from error
    except (ValueError, AssertionError) as error:
        raise UserError(f"data set {name!r} cannot be opened: {error}") from error
    if not builder.info.splits:
        raise UserError(
            f"data set {name!r} is not prepared in {builder.data_dir!r}. Prepare it with: "
            f"python -m tensorflow_datasets.scripts.cli.main build {name}"
            + (f" --data_dir={data_dir}" if data_dir else "")
        )
    return builder


def _key_of(features, preferred: str, kind: str) -> str | None:
    """The feature of a kind: the one with the usual name, else the only one."""
    keys = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if preferred in keys:
        return preferred
    return keys[0] if len(keys) == 1 else None


def _decoded(builder, split, count, image_key, label_key, shape):
    """Every image and label of a split, in the files' order."""
    images = np.empty([count, *shape], np.uint8)
    labels = np.empty([count], np.int64) if label_key else None
    done = 0
    batches = builder.as_dataset(split=split, shuffle_files=False).batch(500)
    for batch in tqdm(
        batches, total=-(-count // 500), desc=f"reading {split}", mininterval=5, delay=3
    ):
        rows = slice(done, done + len(batch[image_key]))
        images[rows] = batch[image_key].numpy()
        if label_key:
            labels[rows] = batch[label_key].numpy()
        done = rows.stop
    if label_key and labels.min() < 0:  # TFDS writes -1 where labels are held back.
        labels = None
    return images, labels


def _index(instructions) -> dict[str, np.ndarray]:
    """Where each record of a split is: number of its file, offset and length of its data."""
    files, sizes, shards, offsets, lengths = [], [], [], [], []
    for instruction in tqdm(instructions, desc="indexing records", mininterval=5, delay=3):
        spans = _records(instruction.filename)
        last = None if instruction.take < 0 else instruction.skip + instruction.take
        spans = spans[instruction.skip : last]
        shards += [len(files)] * len(spans)
        offsets += [offset for offset, _ in spans]
        lengths += [length for _, length in spans]
        files.append(instruction.filename)
        sizes.append(tf.io.gfile.stat(instruction.filename).length)
    return {
        "file": np.array(files),
        "size": np.array(sizes, np.int64),
        "shard": np.array(shards, np.int64),
        "offset": np.array(offsets, np.int64),
        "length": np.array(lengths, np.int64),
    }


def _records(path: str) -> list[tuple[int, int]]:
    """(offset, length) of the data of every record of a TFRecord file."""
    size, position, spans = tf.io.gfile.stat(path).length, 0, []
    with tf.io.gfile.GFile(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                raise UserError(f"{path} is cut short; prepare the data set again.")
            (length,) = struct.unpack("<Q", header[:8])
            spans.append((position + _HEADER, length))
            position += _HEADER + length + _FOOTER
    if position != size:
        raise UserError(f"{path} is cut short; prepare the data set again.")
    return spans


def _record(index: dict[str, np.ndarray], i: tf.Tensor) -> tf.Tensor:
    """The bytes of record i; a graph function."""
    offset, length = tf.gather(index["offset"], i), tf.gather(index["length"], i)
    shard = tf.gather(index["shard"], i)
    size = tf.gather(index["size"], shard)
    # A file with one record of that length, after a header and before a footer.
    return tf.data.FixedLengthRecordDataset(
        tf.gather(index["file"], shard),
        record_bytes=length,
        header_bytes=offset,
        footer_bytes=size - offset - length,
    ).get_single_element()


def _parse(record: tf.Tensor, key: str, dtype: tf.DType) -> tf.Tensor:
    return tf.io.parse_single_example(record, {key: tf.io.FixedLenFeature([], dtype)})[key]


def _labels(index: dict[str, np.ndarray], key: str) -> np.ndarray | None:
    """The label of every record, in one pass."""
    count = len(index["offset"])
    dataset = tf.data.Dataset.range(count).map(
        lambda i: _parse(_record(index, i), key, tf.int64), tf.data.AUTOTUNE
    )
    batches = tqdm(
        dataset.batch(1000), total=-(-count // 1000), desc="labels", mininterval=5, delay=3
    )
    labels = np.concatenate([batch.numpy() for batch in batches])
    return None if labels.min() < 0 else labels
