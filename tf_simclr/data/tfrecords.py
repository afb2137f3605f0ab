"""Reads prepared TensorFlow Datasets (TFDS), without network access and without writing.

A set is read from beginning to end or, once the offset of each record is known, one record at a
time in any order.
"""

from __future__ import annotations

import hashlib
import os
import struct
from concurrent import futures

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data import tfds_features
from tf_simclr.errors import UserError

_THREADS = 16
_BATCH = 256
_FRAME = struct.Struct("<Q4x")  # Before a record: its length and the length's checksum.
_CHECKSUM = 4  # Bytes after a record.


class PreparedSet:
    """A split of a prepared TFDS data set.

    Call `index_records` before `read`.

    Attributes:
      num_examples: N.
      image_shape: (h, w, C); h and w are None if they vary.
      unlabelled: a sentence that explains why there are no labels, if there are none.
      fingerprint: hex digest of the metadata.
      unreadable: int64 [0]: bad records are found only by reading them.
      file_sizes: None: the images are no files.
    """

    unreadable = np.zeros(0, np.int64)
    file_sizes = None

    def __init__(self, builder, split: str, label: str = ""):
        """Reads the metadata.

        Args:
          builder: from `tfds_builders.find_builder`.
          split: a split, with slices as in TFDS.
          label: the feature to use as label; "": the usual one, if there is one.

        Raises:
          UserError: the split does not exist, an example has no image or several, the format is not
            supported, or the feature cannot be a label.
        """
        info = builder.info
        self._shards = _shards(info, split)
        self.num_examples = sum(take for _, _, take in self._shards)
        if not self.num_examples:
            raise UserError(f"the split {split!r} of {info.full_name!r} is empty.")
        self._labels_read = False
        self._image = tfds_features.image_of(info)
        features = tfds_features.labels_of(info.features)
        self._label = tfds_features.choose_label(info, features, label)
        self.unlabelled = tfds_features.why_unlabelled(info, features, self._label)
        feature = info.features[self._image]
        self.image_shape = (*feature.shape[:2], feature.shape[2] or 3)
        if np.dtype(feature.np_dtype) != np.uint8 or self.image_shape[2] not in (1, 3, 4):
            raise UserError(
                f"the images of {info.full_name!r} are {np.dtype(feature.np_dtype).name} with "
                f"{self.image_shape[2]} channels; only uint8 with 1, 3 or 4 is supported."
            )
        self._class_names = features[self._label].class_names if self._label else None
        self.fingerprint = _fingerprint(info, split)

    def read_class_names(self) -> tuple[str, ...] | None:
        """The class names, by label; None for an unlabelled set.

        If the label is a plain number, reads all labels; the names are then the numbers.
        """
        if self._label and not self._class_names:
            labels = self.read_labels()
            self._class_names = tuple(map(str, range(labels.max() + 1)))
        return self._class_names

    def read_labels(self) -> np.ndarray | None:
        """Reads the labels, int64 [N]; None if any label is missing (-1 in TFDS).

        Raises:
          UserError: the label is a number, and some are negative or too large for a class.
        """
        if not self._labels_read:
            self._labels_read = True
            self._labels = self._read_labels() if self._label else None
        return self._labels

    def _read_labels(self):
        batches = self._in_order({self._label: tf.io.FixedLenFeature([], tf.int64)})
        labels = np.empty([self.num_examples], np.int64)
        _fill(labels, (batch[self._label].numpy() for batch in batches), "Reading labels")
        if not self._class_names:
            tfds_features.check_numbers(self._label, labels)
        return labels if labels.min() >= 0 else None

    def contents(self) -> tf.data.Dataset:
        """The encoded images of all examples, in order: scalar strings."""
        batches = self._in_order({self._image: tf.io.FixedLenFeature([], tf.string)})
        contents = batches.map(lambda batch: batch[self._image]).unbatch()
        return contents.apply(tf.data.experimental.assert_cardinality(self.num_examples))

    def index_records(self) -> None:
        """Finds the offset of every record from its header; takes 12 bytes of memory per record."""
        with futures.ThreadPoolExecutor(_THREADS) as pool:
            offsets = list(pool.map(lambda shard: record_offsets(*shard), self._shards))
        shard = np.repeat(np.arange(len(offsets), dtype=np.int32), [len(o) for o in offsets])
        with tf.device("CPU:0"):  # An accelerator would copy them for each read.
            self._files = tf.constant([path for path, _, _ in self._shards])
            self._shard = tf.constant(shard)
            self._offset = tf.constant(np.concatenate(offsets))

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The encoded image of one example, scalar string; for use in graphs.

        Args:
          index: int64 scalar.
        """
        # TFRecordDataset does not take offsets, but its op does. Unbuffered, it reads one record.
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(self._files, tf.gather(self._shard, index))],
            compression_type="",
            buffer_size=0,
            byte_offsets=[tf.gather(self._offset, index)],
        )
        spec = tf.TensorSpec([], tf.string)
        record = tf.data.experimental.from_variant(records, spec).take(1).get_single_element()
        feature = {self._image: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(record, feature)[self._image]

    def describe(self, index: int) -> str:
        """Where an example is: its file, and its record number in the file, from 0."""
        for path, skip, take in self._shards:
            if index < take:
                return f"{path}, record {skip + index}"
            index -= take
        raise IndexError(index)

    def names(self, rows: np.ndarray) -> list[str]:
        """What `describe` returns for some examples, int64 [n]."""
        return [self.describe(int(row)) for row in rows]

    def _in_order(self, features):
        """Batches of parsed examples, in order; reads several files at a time."""
        paths, skips, takes = zip(*self._shards)
        counts = np.array([skips, takes], np.int64)
        shards = tf.data.Dataset.from_tensor_slices((list(paths), *counts))

        def examples(path, skip, take):
            records = tf.data.TFRecordDataset(path).skip(skip).take(take).batch(_BATCH)
            return records.map(lambda batch: tf.io.parse_example(batch, features))

        whole_shard = 2**40
        return shards.interleave(
            examples, cycle_length=4, block_length=whole_shard, num_parallel_calls=4
        )


def record_offsets(path: str, skip: int, take: int) -> np.ndarray:
    """The offsets of records in a TFRecord file, from their headers.

    Args:
      path: the file.
      skip, take: which of its records.

    Returns:
      int64 [take].

    Raises:
      UserError: the file ends too soon.
    """
    offsets = np.empty([take], np.int64)
    position, size = 0, tf.io.gfile.stat(path).length
    opened = tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb", buffering=0)
    with opened as file:
        for record in range(skip + take):
            file.seek(position)
            header = file.read(_FRAME.size)
            following = position + _FRAME.size + _CHECKSUM
            if len(header) == _FRAME.size:
                following += _FRAME.unpack(header)[0]
            if following > size:
                raise UserError(
                    f"{path!r} ends inside record {record}: the data set is damaged, prepare it "
                    "again."
                )
            if record >= skip:
                offsets[record - skip] = position
            position = following
    return offsets


def _shards(info, split):
    """[(path, records to skip, records to take)] of a split."""
    name = split.split("[")[0].split("+")[0].strip()
    if name not in info.splits and name != "all":
        raise UserError(f"{info.name} has no split {name!r}; it has {', '.join(info.splits)}.")
    if info.file_format.value != "tfrecord":
        raise UserError(
            f"{info.full_name!r} is stored as {info.file_format.value}; only tfrecord is supported."
        )
    try:
        instructions = info.splits[split].file_instructions
    except ValueError as error:
        raise UserError(f"split={split!r} of {info.full_name!r}: {error}") from error
    return [
        (os.fspath(i.filename), i.skip, i.take if i.take >= 0 else i.examples_in_shard - i.skip)
        for i in instructions
    ]


def _fill(array, batches, what):
    """Fills an array batch by batch, with a progress bar if it takes long."""
    done = 0
    try:
        with tqdm(total=len(array), desc=what, mininterval=5, delay=5) as progress:
            for batch in batches:
                array[done : done + len(batch)] = batch
                done += len(batch)
                progress.update(len(batch))
    except tf.errors.OpError as error:
        raise UserError(
            f"{what}: the data set is damaged, prepare it again. {error.message}"
        ) from error
    if done != len(array):
        raise UserError(
            f"{what}: there are {done} examples where the metadata says {len(array)}; prepare the "
            "data set again."
        )


def _fingerprint(info, split):
    splits = [(s.name, list(s.shard_lengths), s.num_bytes) for s in info.splits.values()]
    text = repr((info.full_name, split, sorted(splits)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
