"""Finds, names and leaves out images that cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr.data.decoding import MAX_BYTES, MAX_PIXELS
from tf_simclr.data.image_source import Source
from tf_simclr.errors import UserError, printable

_SHOWN = 5
_LOOKED_FOR = 64

# Raised for an image that is damaged or missing, or whose record has a wrong checksum.
_OF_IMAGES = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.DataLossError,
)
# Reading can also raise: no permission, a folder in the file's place, a failing disk.
READ_ERRORS = (
    *_OF_IMAGES,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


def find_bad_images(source: Source, indices: Iterable[int] | None = None) -> list[str]:
    """Tries to decode each image and returns the names of those that fail.

    Args:
      source: any.
      indices: the images to try; None: all.

    Returns:
      Their paths, or other identification.
    """
    chosen = None if indices is None else np.fromiter(indices, np.int64)
    return [source.describe(index) for index in _bad_indices(source, chosen)]


def without_bad(source: Source) -> Source:
    """Tries to decode each image and leaves out those that fail; `bad_images` lists them.

    They are not replaced by others, as a batch must not contain an image twice.

    Args:
      source: any.

    Returns:
      A source of the good images; `source` itself if all are good.

    Raises:
      UserError: no image can be decoded.
    """
    bad = np.zeros(source.num_examples, bool)
    bad[_bad_indices(source)] = True
    if not bad.any():
        return source
    names = [source.describe(index) for index in np.flatnonzero(bad)]
    if bad.all():
        raise UserError(f"none of {len(bad)} images can be decoded: {listed(names)}.")
    logging.warning(
        "Left out %d of %d images, which cannot be decoded: %s",
        len(names),
        len(bad),
        listed(names),
    )
    return source.without(bad, names)


def bad_images_error(names: list[str], count: int) -> UserError:
    """An error that says which of `count` files of a folder cannot be decoded, and what to do."""
    return UserError(
        f"{len(names)} of {count} files cannot be decoded, or are above {MAX_BYTES:,} bytes or "
        f"{MAX_PIXELS:,} pixels: {listed(names)}. "
        "Remove them, or pass --skip_bad_images to leave them out. If a training has already "
        "started, add --allow_changes, because the set of images changes."
    )


@contextlib.contextmanager
def naming_bad_images(source: Source):
    """Turns a failure to read an image within the block into an error that names the files.

    Raises:
      UserError: files are missing or cannot be decoded, or no file of a folder can be found.
    """
    try:
        yield
    except READ_ERRORS as error:
        # The other errors of READ_ERRORS can also come from other parts of a step.
        if not isinstance(error, _OF_IMAGES) and "ReadFile" not in str(error):
            raise
        raise explain_bad_images(source, error) from error


def explain_bad_images(source: Source, error: tf.errors.OpError) -> UserError:
    """An error that names missing or damaged images or, if all can be read now, repeats `error`."""
    if source.folder is not None and _all_gone(source):
        return UserError(
            f"no image of the folder {source.folder!r} can be found any more: it was moved or "
            "deleted, or its disk is not mounted. Restore it; the same command then resumes from "
            "the last checkpoint."
        )
    logging.info("An image could not be read; looking for the files ...")
    bad, count = find_bad_images(source), source.num_examples
    if not bad:
        return UserError(f"a batch could not be made: {error.message}")
    if source.folder is None:
        return UserError(
            f"{len(bad)} of {count} images cannot be read: {listed(bad)}. Bring the data set's "
            "files back, or prepare it again; the same command then resumes."
        )
    missing = [name for name in bad if not tf.io.gfile.exists(name)]
    damaged = [name for name in bad if name not in set(missing)]
    said = []
    if missing:
        said.append(
            f"{len(missing)} of {count} files are missing since the run started: "
            f"{listed(missing)}. Restore them and run the same command, or pass --allow_changes to "
            "continue without them."
        )
    if damaged:
        said.append(str(bad_images_error(damaged, count)))
    return UserError(" ".join(said))


def _all_gone(source):
    some = np.unique(np.linspace(0, source.num_examples - 1, _LOOKED_FOR).astype(np.int64))
    return not any(tf.io.gfile.exists(source.describe(index)) for index in some)


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def _bad_indices(source, indices=None):
    """Indices of the images that cannot be decoded, int64, increasing."""
    if source.store.nbytes:  # All are in memory, so they could be decoded.
        return np.zeros(0, np.int64)
    indices = np.arange(source.num_examples) if indices is None else np.unique(indices)
    chosen, indices = indices, np.setdiff1d(indices, source.store.unreadable)

    def attempt(index):
        return index, tf.shape(source.load(index))  # Without it, decoding would be pruned.

    # Skips elements that fail, in whichever thread.
    good = tf.data.Dataset.from_tensor_slices(indices)
    good = good.map(attempt, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors().batch(64)
    seen = np.zeros(source.num_examples, bool)
    with tqdm(total=len(indices), desc="Checking images", mininterval=5, delay=5) as progress:
        for batch, _ in good:
            seen[batch.numpy()] = True
            progress.update(len(batch))
    return chosen[~seen[chosen]]
