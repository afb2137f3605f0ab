"""Images that cannot be decoded: naming them, and doing without them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr.data.decoding import MAX_BYTES, MAX_PIXELS
from tf_simclr.data.image_source import Source
from tf_simclr.errors import UserError, printable

_SHOWN = 5

# What reading an image raises: damaged, gone, or in a record whose checksum is wrong.
READ_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.DataLossError,
)


def find_bad_images(source: Source, indices: Iterable[int] | None = None) -> list[str]:
    """Names the images that cannot be read or decoded, after trying each.

    Args:
      source: any.
      indices: those to try; None: all.

    Returns:
      Their paths, or what else tells them apart.
    """
    chosen = None if indices is None else np.fromiter(indices, np.int64)
    return [source.describe(index) for index in _bad_indices(source, chosen)]


def without_bad(source: Source, known_bad: Iterable[int] = ()) -> Source:
    """Leaves out the images that cannot be decoded, after trying each; `bad_images` lists them.

    They are not replaced by others: a batch must not hold an image twice.

    Args:
      source: any.
      known_bad: indices that need no trial.

    Returns:
      The source of the others; `source` itself where all are good.

    Raises:
      UserError: no image is good.
    """
    bad = np.zeros(source.num_examples, bool)
    bad[np.asarray(known_bad, np.int64)] = True
    bad[_bad_indices(source, np.flatnonzero(~bad))] = True
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
    part = source.take(np.flatnonzero(~bad))
    part.bad_images = names
    return part


def bad_images_error(names: list[str], count: int) -> UserError:
    """Says which of `count` images cannot be decoded, and what to do."""
    return UserError(
        f"{len(names)} of {count} files cannot be decoded, or are above {MAX_BYTES:,} bytes or "
        f"{MAX_PIXELS:,} pixels: {listed(names)}. "
        "Remove them, or pass --skip_bad_images to train on the others."
    )


def listed(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more


def _bad_indices(source, indices=None):
    """int64, increasing."""
    if source.images is not None:
        return np.zeros(0, np.int64)
    indices = np.arange(source.num_examples) if indices is None else np.unique(indices)

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
    return indices[~seen[indices]]
