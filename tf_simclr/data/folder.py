"""Images in a folder, at any depth: which there are, their classes, and how to read them.

Made for millions of files: a path takes its own length and eight bytes of memory.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.data import listing
from tf_simclr.data.decoding import MAX_BYTES
from tf_simclr.data.listing import EXTENSIONS, Scan
from tf_simclr.errors import UserError

_SPLIT_ALIASES = {
    "train": ("train",),
    "test": ("test", "val", "validation"),
    "val": ("val", "validation"),
    "validation": ("validation", "val"),
}


class ImageFolder:
    """The image files below a folder, in an order that depends on their names only.

    A folder with `train` and `test` (or `val`, `validation`) in it has these as its splits; any
    other is one set, the split "train". The first level of sub-folders are the classes, if there
    are two or more and no image lies beside them. Hidden files and folders are passed over, and so
    are symbolic links that lead out of the folder.

    Attributes:
      num_examples: N.
      class_names: a tuple, the same for every split; None without classes.
      labels: int64 [N], or None.
      fingerprint: hex, of relative names and sizes.
      unreadable: indices of the files that are empty, links to nowhere, or above `MAX_BYTES`
        (of remote files the size is not known).
      listing: what was found, for another one to begin with; None where it may not stay true.
    """

    def __init__(
        self,
        folder: str | None,
        split: str,
        follow_links: bool = False,
        known: bytes | None = None,
    ):
        """Lists the files.

        Args:
          folder: its path; a remote one (gs://...) where TensorFlow can read it.
          split: a plain name, with no slice.
          follow_links: whether to follow symbolic links out of the folder, too.
          known: the attribute `listing` of an earlier one; it is used if no folder has changed.

        Raises:
          UserError: no such folder, no such split, no image.
        """
        if not folder:
            raise UserError("a folder of images needs data_dir, the path of the folder.")
        folder = os.path.expanduser(folder)
        if not tf.io.gfile.isdir(folder):
            raise UserError(f"data_dir={folder!r} is not a folder, or cannot be reached.")
        scan = Scan(os.fsencode(folder), follow_links)
        root, siblings = _split_folder(scan, os.fsencode(folder), split)
        everything = known and listing.from_bytes(known, scan, root)
        if everything:
            self.listing = known
        else:
            everything = listing.list_tree(scan, root)
            self.listing = listing.to_bytes(scan, root, everything)
        parts = [part for part in everything if len(part.sizes)]
        self.num_examples = sum(len(part.sizes) for part in parts)
        if not self.num_examples:
            raise UserError(
                f"no image in {os.fsdecode(root)!r} or below it; looked for "
                f"{', '.join('.' + extension for extension in EXTENSIONS)}.{scan.passed_over()}"
            )
        self.class_names, self.labels = _classes(scan, parts, siblings)
        if scan.outside:
            logging.warning("%s", scan.passed_over().strip())
        self._root = root.rstrip(b"/") + b"/"
        names = b"".join(part.names for part in parts)
        lengths = np.concatenate([part.lengths for part in parts])
        sizes = np.concatenate([part.sizes for part in parts])
        self.unreadable = np.flatnonzero((sizes == 0) | (sizes > MAX_BYTES))
        self.fingerprint = _fingerprint(names, lengths, sizes)
        with tf.device("CPU:0"):  # Where tf.data runs; on an accelerator each read would copy them.
            self._names = tf.constant(names)
            self._ends = tf.constant(np.concatenate([[0], np.cumsum(lengths)]))

    def describe(self, index: int) -> str:
        """The path of a file."""
        return os.fsdecode(self._path(index).numpy())

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The contents of a file, scalar string; for graphs.

        Args:
          index: int64 scalar.
        """
        return tf.io.read_file(self._path(index))

    def _path(self, index):
        # All names are one string, of which a piece is copied: no tensor with a string for each.
        span = tf.gather(self._ends, [index, index + 1])
        name = tf.strings.substr(self._names, span[0], span[1] - span[0])
        return tf.strings.join([self._root, name])


def _split_folder(scan, folder, split):
    """(the folder of a split, the folders of the splits that share their classes with it)."""
    entries = list(scan(folder))
    folders = {name.lower(): name for name, is_folder, _ in entries if is_folder}
    names = {os.fsdecode(name) for name in folders}
    flat = any(not is_folder for _, is_folder, _ in entries)
    has_splits = "train" in names and names & {"test", "val", "validation"}
    if not has_splits and (flat or not names or names - set(_SPLIT_ALIASES)):
        if split != "train":
            raise UserError(
                f"there is no split {split!r}: the folder {os.fsdecode(folder)!r} is one set, "
                "'train'. Put its images into sub-folders train and test, or hold out a slice: "
                f"--train_split='train[:90%]' --eval_split='train[90%:]'.{scan.passed_over()}"
            )
        return folder, []
    paths = {os.fsdecode(key): os.path.join(folder, name) for key, name in folders.items()}
    labelled = [path for name, path in paths.items() if name in _SPLIT_ALIASES]
    for name in _SPLIT_ALIASES.get(split, ()):
        if name in names:
            return paths[name], labelled
    if split in names:
        return paths[split], []
    raise UserError(
        f"there is no split {split!r}: the folder {os.fsdecode(folder)!r} has the splits "
        f"{', '.join(sorted(names, key=lambda name: (name != 'train', name)))}."
        f"{scan.passed_over()}"
    )


def _classes(scan, parts, siblings):
    """(class_names, labels), or (None, None).

    The names come from all splits: a class that is missing from one must not shift the others.
    """
    of_listing = [listing.folder.split(b"/")[0] for listing in parts]
    names = set(of_listing)
    for folder in siblings:
        names |= {name for name, is_folder, _ in scan(folder) if is_folder}
    if len(names) < 2 or b"" in of_listing:
        return None, None
    names = sorted(names)
    place = {name: label for label, name in enumerate(names)}
    labels = np.repeat(
        np.array([place[name] for name in of_listing], np.int64),
        [len(listing.sizes) for listing in parts],
    )
    return tuple(os.fsdecode(name) for name in names), labels


def _fingerprint(names, lengths, sizes):
    digest = hashlib.sha256(names)
    for values in (lengths, sizes):
        digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
