"""Checks of what `fit` is given, on the host and before the first step.

Forms and shapes are checked for all batches at once, where they are known; the range of float
images, which no dtype fixes, in the first batches.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.inputs import Images, Pairs, as_tensors

_RANGE = (-0.5, 1.5)  # Bicubic resizing and colour jitter may leave [0, 1] a little.
_WATCHED_BATCHES = 8  # Not one: a replica whose own batch is sound would wait for the others.
_BEGINS = "images must be floats in [0, 1] or uint8; the first batches have"
_ADVICE = "Divide by 255; normalisation by mean and standard deviation belongs into the encoder."


@contextlib.contextmanager
def checked(form: Pairs | Images, x, y, batch_size: int | None) -> Iterator[Any]:
    """Checks what `fit`, `evaluate` or `predict` is given, and leaves every batch of it to them.

    What only Keras can read, such as a distributed data set, is checked when the step is traced.

    Args:
      form: what its batches must be.
      x, y: as `keras.Model.fit` takes them.
      batch_size: of arrays; None: 32.

    Yields:
      What to give to Keras in the place of `x`.

    Raises:
      UserError: `form` does not take the batches, or float images are not in [0, 1]. For data sets
        the range is checked while they are read, in this context.
    """
    if isinstance(x, tf.data.Dataset):
        form.check(x.element_spec)
        x = _watched(x, form) if form.floats(x.element_spec) else x
    elif isinstance(x, tf.keras.utils.Sequence):
        _check_first(form, x[0], None)
    elif hasattr(x, "__next__") and not isinstance(x, tf.data.Iterator):
        first = list(itertools.islice(x, 1))
        for batch in first:
            _check_first(form, batch, None)
        x = itertools.chain(first, x)
    elif _are_arrays(data := (x,) if y is None else (x, y)):
        size = batch_size or 32
        rows = len(tf.nest.flatten(x)[0])
        form.check_rows(rows, size)
        first = tf.nest.map_structure(lambda array: array[:size], data)
        _check_first(form, first, min(size, rows))
    try:
        yield x
    except tf.errors.InvalidArgumentError as error:
        _, ours, rest = error.message.partition(_BEGINS)
        if not ours:
            raise
        raise UserError(ours + rest.partition("]")[0]) from None  # TensorFlow prints it in a list.


def _check_first(form, batch, rows: int | None) -> None:
    """Checks a batch, of as many rows as all others or None."""

    def spec(x):
        sized = isinstance(x, tf.Tensor) and x.shape.rank
        return tf.TensorSpec([rows, *x.shape[1:]], x.dtype) if sized else x

    batch = as_tensors(batch)
    form.take(batch)
    form.check(tf.nest.map_structure(spec, batch))
    for images in form.floats(batch):
        sound, message = _range_of(images)
        if not sound:
            raise UserError(message.numpy().decode())


def _watched(dataset, form):
    """The data set, failing in its first batches if their images are not in [0, 1]."""

    def check(batch):
        for images in form.floats(batch):
            sound, message = _range_of(images)
            tf.debugging.Assert(sound, [message])
        return True

    def watch(index, batch):
        tf.cond(index < _WATCHED_BATCHES, lambda: check(batch), lambda: True)
        return batch

    return dataset.enumerate().map(watch)


def _range_of(images):
    """(whether images are as they should be, what to say if not)."""
    # NaN and infinity are left to the loss, which shows them, and to `skip_bad_steps`.
    values = tf.where(tf.math.is_finite(images), images, tf.cast(0.5, images.dtype))
    low, high = (tf.cast(f(values), tf.float32) for f in (tf.reduce_min, tf.reduce_max))
    values = [" values from ", tf.as_string(low), " to ", tf.as_string(high), ". "]
    return (low >= _RANGE[0]) & (high <= _RANGE[1]), tf.strings.join([_BEGINS, *values, _ADVICE])


def _are_arrays(data) -> bool:
    parts = tf.nest.flatten(data)
    return all(isinstance(x, (np.ndarray, tf.Tensor)) and len(x.shape) for x in parts)
