"""Images that cannot be read: naming those that are damaged or missing, and leaving them out."""

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

# Raised for an image that is damaged, missing, or in a record whose checksum is wrong.
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
    """Names the images that cannot be read or decoded, after trying each.

    Args:
      source: any.
      indices: those to try; None: all.

    Returns:
      Their paths, or what else identifies them.
    """
    chosen = None if indices is None else np.fromiter(indices, np.int64)
    return [source.describe(index) for index in _bad_indices(source, chosen)]


def without_bad(source: Source) -> Source:
    """Leaves out the images that cannot be decoded, after trying each; `bad_images` lists them.

    Others do not take their place, as a batch must not contain an image twice.

    Args:
      source: any.

    Returns:
      The source of the others; `source` itself where all are good.

    Raises:
      UserError: no image is good.
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
    """Says which of `count` files of a folder cannot be decoded, and what to do."""
    return UserError(
        f"{len(names)} of {count} files cannot be decoded, or are above {MAX_BYTES:,} bytes or "
        f"{MAX_PIXELS:,} pixels: {listed(names)}. "
        "Remove them, or pass --skip_bad_images to train on the others. If the run has already "
        "started, add --allow_changes, because the set of images changes."
    )


@contextlib.contextmanager
def naming_bad_images(source: Source):
    """Turns a failure to read an image inside the block into an error that names the files.

    Raises:
      UserError: files are missing or cannot be decoded, or no file of a folder can be found.
    """
    try:
        yield
    except READ_ERRORS as error:
        # Other parts of a step can raise the rarer errors, too.
        if not isinstance(error, _OF_IMAGES) and "ReadFile" not in str(error):
            raise
        raise explain_bad_images(source, error) from error


def explain_bad_images(source: Source, error: tf.errors.OpError) -> UserError:
    """Says which images are missing or damaged; if all can be read now, what failed before."""
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
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def _bad_indices(source, indices=None):
    """int64, increasing."""
    if source.store.nbytes:  # They were decoded already.
        return np.zeros(0, np.int64)
    indices = np.arange(source.num_examples) if indices is None else np.unique(indices)
    chosen, indices = indices, np.setdiff1d(indices, source.store.unreadable)

    def attempt(index):
        return index, tf.shape(source.load(index))  # The shape, or decoding would be left out.

    # An element that fails is passed over, whichever thread it failed in.
    good = tf.data.Dataset.from_tensor_slices(indices)
    good = good.map(attempt, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors().batch(64)
    seen = np.zeros(source.num_examples, bool)
    with tqdm(total=len(indices), desc="Checking images", mininterval=5, delay=5) as progress:
        for batch, _ in good:
            seen[batch.numpy()] = True
            progress.update(len(batch))
    return chosen[~seen[chosen]]
