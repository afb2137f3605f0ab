"""Micro-batches: parts of a batch processed in sequence, so memory for one part is enough."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.errors import UserError


class MicroBatches:
    """A batch split into micro-batches of consecutive images.

    Attributes:
      count: how many.
    """

    def __init__(self, batch, size: int | None):
        """
        Args:
          batch: tensors [n, ...] in any nesting.
          size: images per micro-batch; None: the whole batch is one.

        Raises:
          UserError: n is not known in advance, or `size` does not divide it.
        """
        n = tf.nest.flatten(batch)[0].shape[0]
        self._batch, self.count = batch, 1
        if size is None:
            return
        if n is None or n % size:
            has = f"{n} images."
            if n is None:
                has = "a size unknown in advance. Batch with drop_remainder=True."
            raise UserError(
                f"micro_batch_size={size} must divide the batch of a replica, which has {has}"
            )
        self.count = n // size

    def __getitem__(self, i):
        if self.count == 1:
            return self._batch

        def part(x):
            return tf.reshape(x, [self.count, x.shape[0] // self.count, *x.shape[1:]])[i]

        return tf.nest.map_structure(part, self._batch)

    def map(self, function: Callable, dtypes):
        """Applies `function` to each part in sequence: tensors [rows, ...], concatenated."""
        if self.count == 1:
            return function(self[0])
        results = tf.map_fn(
            lambda i: function(self[i]),
            tf.range(self.count),
            fn_output_signature=dtypes,
            parallel_iterations=1,
        )
        return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), results)

    def sum(self, function: Callable, like: list) -> list[tf.Tensor]:
        """The sum over the parts of `function`, which returns tensors shaped as `like`."""

        def add(i, total):
            return [i + 1, [a + b for a, b in zip(total, function(self[i]))]]

        zeros = [tf.zeros(x.shape, x.dtype) for x in like]
        _, total = tf.while_loop(
            lambda i, _: i < self.count,
            add,
            [tf.constant(0), zeros],
            parallel_iterations=1,
            maximum_iterations=self.count,
        )
        return total
