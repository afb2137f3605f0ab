"""Where images come from: arrays, the built-in digits, a folder, a prepared TFDS data set."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_simclr.data.bad_images import bad_images_error, find_bad_images, without_bad
from tf_simclr.data.exclusion import without_excluded
from tf_simclr.data.folder import ImageFolder
from tf_simclr.data.image_source import Source, array_source
from tf_simclr.data.in_memory import decoded_store, in_memory
from tf_simclr.data.splits import parse_split, slice_rows
from tf_simclr.data.stores import EncodedStore
from tf_simclr.data.tfds_builders import find_builder
from tf_simclr.data.tfrecords import PreparedSet
from tf_simclr.errors import UserError, unknown_name

__all__ = ["MEMORY_LIMIT", "Source", "array_source", "find_bad_images", "in_memory", "open_source"]

MEMORY_LIMIT = 2**30  # Bytes of decoded images; of larger sets, images are read when asked for.
_BUILT_IN = ("digits", "folder")
_DIGITS_TEST = 500


def open_source(
    name: str,
    data_dir: str | None = None,
    split: str = "train",
    *,
    channels: int | None = None,
    skip_bad_images: bool = False,
    keep_bad_images: bool = False,
    follow_links: bool = False,
    cache: str = "auto",
    label: str = "",
    listing_file: str | None = None,
    exclude_list: str = "",
) -> Source:
    """Opens a data set.

    Args:
      name: "digits" (8x8 scans of handwritten digits that come with scikit-learn), "folder", or a
        TFDS name, as name, name/config or name:version.
      data_dir: the folder of images; for TFDS, where prepared sets lie (None: TFDS's default).
      split: "train", "test" or another that the set has, and slices: "train[:90%]". Slices of
        folders and digits are cut after a fixed shuffle, as they are often sorted by class.
      channels: 1 or 3; None: as TFDS or the digits have it, 3 for a folder.
      skip_bad_images: decode every file of a folder once, and leave out those that fail.
      keep_bad_images: open a folder although some files are empty or too large, which else is an
        error: to list them with `find_bad_images`.
      follow_links: follow symbolic links that lead out of a folder of images, too.
      cache: whether a TFDS set whose images all have one shape is decoded into memory: "on", "off"
        or "auto", up to `MEMORY_LIMIT` bytes. For other sets call `in_memory`.
      label: the feature of a TFDS set that is the label, with slashes between the parts of a nested
        one; "": the one that is its only class label, is called so, or is its supervised key.
      listing_file: the path of a file in which `Source.remember` keeps the listing of a folder of
        images. If it has one, and no sub-folder has changed since, the files are not listed again.
        Only `remember` writes it; other data sets ignore it.
      exclude_list: the path of a list of images to leave out (`exclusion`), before bad images are
        looked for and after the split was cut; "": none.

    Returns:
      The source.

    Raises:
      UserError: nothing of that name, no such split, or nothing in it; a label that cannot be one;
        a list that cannot be read, or that leaves nothing.
    """
    if label and name in _BUILT_IN:
        where = "the names of its sub-folders" if name == "folder" else "built in"
        raise UserError(
            f"--label={label} selects a feature of a TFDS data set; the labels of --dataset={name} "
            f"are {where}. Leave out --label."
        )
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 or 3; received {channels!r}.")
    most_bytes = memory_limit(cache)
    if name == "digits":
        source = _digits(split)
        source = source if channels in (None, 1) else _in_channels(source, channels)
    elif name == "folder":
        folder = ImageFolder(data_dir, parse_split(split)[0], follow_links, listing_file)
        source = _folder(folder, split, channels or 3)
    else:
        prepared = PreparedSet(find_builder(name, data_dir, _BUILT_IN), split, label)
        source = _prepared(name, prepared, split, channels, most_bytes)
    if exclude_list:
        source = without_excluded(source, exclude_list)
    return _without_bad(source, skip_bad_images, keep_bad_images) if name == "folder" else source


def memory_limit(cache: str) -> float:
    """How many bytes of decoded images may be held in memory: "auto", "on" or "off"."""
    limits = {"auto": MEMORY_LIMIT, "on": math.inf, "off": 0}
    if cache not in limits:
        raise unknown_name("cache", cache, limits)
    return limits[cache]


def _folder(folder, split, channels):
    bounds = parse_split(split)[1]
    source = Source(
        f"folder {folder.name}",
        split,
        EncodedStore(folder, channels),
        fingerprint=folder.fingerprint,
        labels=folder.labels,
        class_names=folder.class_names,
        unlabelled=folder.unlabelled,
        folder=folder.path,
        passed_over=folder.passed_over,
        remember=folder.keep_listing,
    )
    if bounds:
        # Slice before files are left out, so that they do not shift the others between slices.
        source = source.take(slice_rows(folder.labels, folder.num_examples, bounds))
    return source


def _without_bad(source, skip_bad_images, keep_bad_images):
    if skip_bad_images:
        return without_bad(source)
    unreadable = source.store.unreadable
    if len(unreadable) and not keep_bad_images:
        names = [source.describe(index) for index in unreadable]
        raise bad_images_error(names, source.num_examples)
    return source


def _prepared(name, prepared, split, channels, most_bytes):
    *shape, own_channels = prepared.image_shape
    one_shape = None not in shape
    channels = channels or own_channels
    store = EncodedStore(prepared, channels, tuple(shape) if one_shape else None)
    if one_shape and math.prod([prepared.num_examples, *shape, channels]) <= most_bytes:
        store = _decoded(name, store)
        prepared.read_labels()  # Quick for a set that fits into memory, and mistakes show at once.
    else:
        prepared.index_records()
    return Source(
        name,
        split,
        store,
        fingerprint=prepared.fingerprint,
        labels=prepared.read_labels,
        class_names=prepared.read_class_names,
        unlabelled=prepared.unlabelled,
    )


def _decoded(name, store):
    try:
        return decoded_store(store)
    except tf.errors.OpError as error:
        raise UserError(
            f"the data set {name!r} is damaged, prepare it again: {error.message}"
        ) from error


def _digits(split):
    """1,797 digits of 8x8 pixels in 17 grey levels (UCI, Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    name, bounds = parse_split(split)
    if name not in ("train", "test"):
        raise UserError(f"digits has the splits train and test; received {name!r}.")
    digits = load_digits()
    images = np.round(digits.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(images)), test_size=_DIGITS_TEST, random_state=0, stratify=digits.target
    )
    whole = array_source(images, digits.target, name="digits", split=split)
    part = whole.take(np.sort(train if name == "train" else test))
    if bounds:
        part = part.take(slice_rows(part.labels, part.num_examples, bounds))
    return part


def _in_channels(source, channels):
    images = np.repeat(source.images, channels, axis=-1)
    return array_source(images, source.labels, source.class_names, source.name, source.split)
