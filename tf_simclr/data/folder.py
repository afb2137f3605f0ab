"""Images in a folder, at any depth: which there are, their classes, and how to read them.

Millions of files are fine: a path takes its own length and sixteen bytes of memory.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr import storage
from tf_simclr.data import listing
from tf_simclr.data.bad_images import listed
from tf_simclr.data.decoding import MAX_BYTES
from tf_simclr.data.listing import EXTENSIONS, Scan
from tf_simclr.data.split_folders import (
    find_split,
    text_of,
    warn_of_nested_splits,
    warn_of_split_names,
)
from tf_simclr.errors import UserError

_ENDINGS = ", ".join("." + extension for extension in EXTENSIONS)


class ImageFolder:
    """The image files below a folder, in an order that depends on their names only.

    A folder with `train` and `test` (or `valid`, `dev`, ... : see `split_folders`) in it has these
    as its splits; any other is one set, the split "train". The first level of sub-folders are the
    classes, if there are two or more and no image lies next to them. Folders whose names differ
    only in their Unicode form are one class. Hidden files and folders, folders that systems make
    (`listing.SYSTEM_FOLDERS`) and symbolic links that lead out of the folder are passed over.

    Attributes:
      num_examples: N.
      class_names: a tuple, the same for every split; None without classes.
      labels: int64 [N], or None.
      unlabelled: why there are no labels, a sentence; "" where there are some.
      passed_over: what was not read as an image, a sentence; "" for nothing.
      name: the last part of the data set's path.
      path: the split's folder.
      fingerprint: hex, of relative names and sizes.
      unreadable: indices of the files that are empty, broken links, or above `MAX_BYTES` (the size
        of remote files is not known).
      file_sizes: int64 [N], in bytes; 0: empty or unreadable, -1: unknown.
    """

    def __init__(
        self,
        folder: str | None,
        split: str,
        follow_links: bool = False,
        listing_file: str | None = None,
    ):
        """Lists the files.

        Args:
          folder: its path; a remote one (gs://...) where TensorFlow can read it.
          split: a plain name, with no slice.
          follow_links: whether to follow symbolic links out of the folder, too.
          listing_file: where `keep_listing` writes; a listing found there is used if no folder has
            changed since.

        Raises:
          UserError: no such folder, no such split, no image.
        """
        if not folder:
            raise UserError("a folder of images needs data_dir, the path of the folder.")
        folder = os.path.expanduser(folder)
        if not tf.io.gfile.isdir(folder):
            raise UserError(f"data_dir={folder!r} is not a folder, or cannot be reached.")
        scan = Scan(os.fsencode(folder), follow_links)
        root, splits = find_split(scan, os.fsencode(folder), split)
        self._listing_file, self._new_listing = listing_file, None
        everything = listing.from_bytes(_contents_of(listing_file), scan, root)
        if not everything:
            everything = listing.list_tree(scan, root)
            if listing_file:
                self._new_listing = listing.to_bytes(scan, root, everything)
        parts = [part for part in everything if len(part.sizes)]
        self.passed_over = (scan.passed_over() + _skipped(everything)).strip()
        self.num_examples = sum(len(part.sizes) for part in parts)
        if not self.num_examples:
            raise UserError(
                f"no image in {os.fsdecode(root)!r} or below it; looked for {_ENDINGS}. "
                f"{self.passed_over}".strip()
            )
        if self.passed_over:
            logging.warning("%s", self.passed_over)
        self.class_names, self.labels = _classes(scan, parts, root, splits)
        self.unlabelled = "" if self.class_names else _why_unlabelled(root, parts)
        _warn_of_folders(root, everything, parts, splits)
        self.name = os.path.basename(os.path.abspath(folder))
        self.path = os.fsdecode(root)
        self._root = root.rstrip(b"/") + b"/"
        names = b"".join(part.names for part in parts)
        lengths = np.concatenate([part.lengths for part in parts])
        sizes = np.concatenate([part.sizes for part in parts])
        self.file_sizes = sizes
        self.unreadable = np.flatnonzero((sizes == 0) | (sizes > MAX_BYTES))
        self.fingerprint = _fingerprint(names, lengths, sizes)
        with tf.device("CPU:0"):  # An accelerator would copy them for each read.
            self._names = tf.constant(names)
            self._ends = tf.constant(np.concatenate([[0], np.cumsum(lengths)]))

    def keep_listing(self) -> None:
        """Writes the listing to the listing file, if it is new and a later change would be noticed.

        Raises:
          UserError: the file cannot be written.
        """
        if self._new_listing is not None:
            storage.write_whole(self._listing_file, self._new_listing)
            self._new_listing = None  # It can take as much memory as all paths.

    def describe(self, index: int) -> str:
        """The path of a file."""
        return os.fsdecode(self._path(index).numpy())

    def names(self, rows: np.ndarray) -> list[str]:
        """The paths of some files, int64 [n], at once: far faster than one by one."""
        return list(map(os.fsdecode, self._path(tf.constant(rows, tf.int64)).numpy()))

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The contents of a file, scalar string; for graphs.

        Args:
          index: int64 scalar.
        """
        return tf.io.read_file(self._path(index))

    def contents(self) -> tf.data.Dataset:
        """The contents of all files, in order."""
        return tf.data.Dataset.range(self.num_examples).map(self.read, tf.data.AUTOTUNE)

    def _path(self, index):
        # All names are one string: a tensor of strings would take far more memory.
        span = tf.gather(self._ends, [index, index + 1])  # [2], or [2, n] of n files.
        name = tf.strings.substr(self._names, span[0], span[1] - span[0])
        return tf.strings.join([self._root, name])


def _contents_of(path):
    """The bytes of a listing file; b"" if there is none, or it cannot be read."""
    try:
        return path and storage.read_bytes(path) or b""
    except (OSError, tf.errors.OpError):
        return b""


def _top(part):
    return part.folder.split(b"/")[0]


def _classes(scan, parts, root, splits):
    """(class_names, labels), or (None, None).

    The names come from all splits: a class that is missing from one must not shift the others.
    """
    tops = [_top(part) for part in parts]
    own = set(tops)
    texts = set(map(text_of, own))
    of_splits = [(folder, name) for folder in splits for name in scan(folder).folders]
    numbered = _in_order({name for _, name in of_splits} | (own if root in splits else set()))
    if not texts & set(numbered):
        numbered = []  # One set, or a folder that has nothing in common with the splits.
    # A folder that is not one of the known splits can have classes of its own: they come last.
    numbered = list(dict.fromkeys([*numbered, *_in_order(own)]))
    if len(numbered) < 2 or b"" in own:
        return None, None
    if len(texts) == 1:  # train/images and train/labels: are there images of another class?
        others = (os.path.join(*pair) for pair in of_splits if text_of(pair[1]) not in texts)
        if not any(len(part.sizes) for other in others for part in listing.list_tree(scan, other)):
            return None, None
    place = {name: label for label, name in enumerate(numbered)}
    labels = np.repeat(
        np.array([place[text_of(top)] for top in tops], np.int64),
        [len(part.sizes) for part in parts],
    )
    return tuple(numbered), labels


def _in_order(names):
    """Class names, each once: in the order of their bytes, as runs of earlier versions had them."""
    return list(dict.fromkeys(map(text_of, sorted(names))))


def _why_unlabelled(root, parts):
    loose = sum(len(part.sizes) for part in parts if not part.folder)
    where = (
        f"{loose} images lie directly in it"
        if loose
        else f"all images are in one sub-folder, {os.fsdecode(_top(parts[0]))!r}"
    )
    return (
        f"the folder {os.fsdecode(root)!r} has no classes, as {where}. Put the images of each "
        "class into a sub-folder named after it."
    )


def _skipped(everything):
    """A sentence with a space before it; "" for nothing."""
    skipped = listing.skipped_in(everything)
    if not skipped:
        return ""
    return (
        f" Skipped: {skipped}. Only {_ENDINGS} are read; convert other images. A name with a slash "
        "is a folder made by a system or NAS."
    )


def _warn_of_folders(root, everything, parts, splits):
    """Warns of classes that look like splits, and of sub-folders without an image."""
    classes = {_top(part) for part in parts}
    if b"" in classes:
        return
    if not splits:
        holding = {part.folder for part in parts}
        warn_of_split_names(root, classes, classes - holding)
        if len(classes) == 1:
            (top,) = classes
            below = {part.folder.split(b"/")[1] for part in parts if b"/" in part.folder}
            warn_of_nested_splits(os.path.join(root, top), below)
    empty = {}
    for part in everything:
        if part.folder and _top(part) not in classes:
            empty.setdefault(_top(part), []).append(part)
    if empty:
        names = [
            f"{os.fsdecode(top)} ({listing.skipped_in(inside) or 'empty'})"
            for top, inside in sorted(empty.items())
        ]
        logging.warning("No image is in the sub-folder(s) %s.", listed(names))


def _fingerprint(names, lengths, sizes):
    digest = hashlib.sha256(names)
    for values in (lengths, sizes):
        digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
