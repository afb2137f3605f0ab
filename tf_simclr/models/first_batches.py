"""Checks the arguments of `fit` on the host, before the first step.

Forms and shapes are checked for all batches at once, where they are known. The range of float
images, which no dtype fixes, is checked in the first batch, and for data sets in the first images
of every batch.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.inputs import Images, Pairs, as_tensors
from tf_simclr.stack import keras

_RANGE = (-0.5, 1.5)  # Bicubic resizing and colour jitter may leave [0, 1] a little.
# A scaling mistake affects all images, so a few per batch suffice and cost nothing. Counting
# batches would lose the data set's cardinality and prevent sharding by file.
_WATCHED_IMAGES = 4
_BEGINS = "images must be floats in [0, 1] or uint8; received values"
_ADVICE = "Divide by 255; normalisation by mean and standard deviation belongs in the encoder."


@contextlib.contextmanager
def checked(
    form: Pairs | Images,
    x,
    y,
    batch_size: int | None,
    *,
    steps: int | None = None,
    epochs: int = 1,
    validation_split: float = 0.0,
    validation_batch_size: int | None = None,
    validation_steps: int | None = None,
) -> Iterator[Any]:
    """Checks the data for `fit`, `evaluate` or `predict` without consuming a batch.

    What only Keras can read, such as a distributed data set, is checked when the step is traced.

    Args:
      form: what its batches must be.
      x, y: as `keras.Model.fit` takes them.
      batch_size: batch size for arrays; None: Keras' default.
      steps: steps per epoch; None: one pass over the data.
      epochs: how many will run.
      validation_split: share of arrays, their last rows, to evaluate on.
      validation_batch_size, validation_steps: of those; None: `batch_size`, one pass.

    Yields:
      What to pass to Keras instead of `x`.

    Raises:
      UserError: `form` does not take the batches, or float images are not in [0, 1]. The range in
        data sets, and the size of all batches of a generator but the first, are checked while they
        are read, in this context.
    """
    refused = []
    if isinstance(x, tf.data.Dataset):
        form.check(x.element_spec)
        x = _watched(x, form) if form.floats(x.element_spec) else x
    elif isinstance(x, keras.utils.Sequence):
        _check_first(form, x[0])
        _check_size(form, x[len(x) - 1])
    elif hasattr(x, "__next__") and not isinstance(x, tf.data.Iterator):
        first = list(itertools.islice(x, 1))
        for batch in first:
            _check_first(form, batch)
        x = _sized(itertools.chain(first, x), form, refused)
    elif _are_arrays(data := (x,) if y is None else (x, y)):
        end = math.floor(len(tf.nest.flatten(x)[0]) * (1.0 - validation_split))  # As Keras splits.
        trained = tf.nest.map_structure(lambda array: array[:end], data)
        _check_arrays(form, trained, batch_size, steps, epochs)
        if validation_split:
            rest = tf.nest.map_structure(lambda array: array[end:], data)
            _check_arrays(form, rest, validation_batch_size or batch_size, validation_steps, 1)
    try:
        yield x
    except tf.errors.OpError as error:
        if refused:
            raise refused[0] from None
        if not isinstance(error, tf.errors.InvalidArgumentError):
            raise
        _, ours, rest = error.message.partition(_BEGINS)
        if not ours:
            raise
        raise UserError(ours + rest.partition("]")[0]) from None  # TensorFlow prints it in a list.


def _check_first(form, batch) -> None:
    """Checks a batch that represents all others."""
    batch = as_tensors(batch)
    form.take(batch)
    form.check(batch)
    for images in form.floats(batch):
        sound, message = _range_of(images)
        if not sound:
            raise UserError(message.numpy().decode())


def _check_size(form, batch) -> None:
    for part in tf.nest.flatten(batch):
        for rows in np.shape(part)[:1]:
            form.check_rows(rows, f"a batch of {rows}")


def _check_arrays(form, data, batch_size: int | None, steps: int | None, epochs: int) -> None:
    """Checks the first batch of arrays, and the smaller last one if the steps reach it."""
    rows = len(tf.nest.flatten(data)[0])
    size = batch_size or (max(1, math.ceil(rows / steps)) if steps else 32)  # As Keras chooses it.
    _check_first(form, tf.nest.map_structure(lambda array: array[:size], data))
    full, rest = divmod(rows, size)
    # Each epoch continues where the one before it ended.
    if not steps or steps * epochs > full:
        form.check_rows(rest, f"{rows} rows, which make batches of {size} and one of {rest}")


def _sized(batches, form, refused: list[UserError]) -> Iterator[Any]:
    """Yields batches until one cannot be shared. TensorFlow hides the error, so it is kept."""
    for batch in batches:
        try:
            _check_size(form, batch)
        except UserError as error:
            refused.append(error)
            raise
        yield batch


def _watched(dataset, form):
    """The data set, failing where the first images of a batch are not in [0, 1]."""

    def watch(*batch):
        # `map` unpacks tuples only; the structure has to stay as it was.
        batch = batch if type(dataset.element_spec) is tuple else batch[0]
        for images in form.floats(batch):
            sound, message = _range_of(images[:_WATCHED_IMAGES])
            tf.debugging.Assert(sound, [message])
        return batch

    return dataset.map(watch)


def _range_of(images):
    """(whether the images are in range, the message if not)."""
    # NaN and infinity show in the loss, and `skip_bad_steps` handles them.
    values = tf.where(tf.math.is_finite(images), images, tf.cast(0.5, images.dtype))
    low, high = (tf.cast(f(values), tf.float32) for f in (tf.reduce_min, tf.reduce_max))
    values = [" from ", tf.as_string(low), " to ", tf.as_string(high), ". "]
    return (low >= _RANGE[0]) & (high <= _RANGE[1]), tf.strings.join([_BEGINS, *values, _ADVICE])


def _are_arrays(data) -> bool:
    parts = tf.nest.flatten(data)
    return all(isinstance(x, (np.ndarray, tf.Tensor)) and len(x.shape) for x in parts)
