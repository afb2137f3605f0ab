"""Computes an encoder's h for every image of a data set, on all replicas of this host."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.errors import UserError
from tf_simclr.stack import keras


class Computer:
    """Computes h for batches of images, with one compiled function for all of them.

    The replicas of the strategy take the batches in turn, and every batch is padded to the same
    size. So the result is the same, bit for bit, whichever replica computes a batch, and no
    collective operation is needed.
    """

    def __init__(self, encoder, size: int, strategy: tf.distribute.Strategy | None = None):
        """
        Args:
          encoder: from images to h; built under the strategy, if there is one.
          size: images per batch and replica.
          strategy: its replicas on this host compute h; None: the current device does.
        """
        self._size = size
        self._strategy = strategy
        # Each host uses its own replicas only, independently of other hosts.
        self._replicas = 1 if strategy is None else len(strategy.extended.worker_devices)
        self._alone = strategy is None or strategy.num_replicas_in_sync == 1

        def encode(images):
            return tf.cast(encoder(images, training=False), tf.float32)

        def on_replicas(images):
            return strategy.run(encode, args=(images,))

        self._step = tf.function(encode if self._alone else on_replicas)

    def __call__(self, batches: Iterable[tf.Tensor]) -> Iterator[np.ndarray]:
        """Yields h of each batch in order, float32 [n, D].

        Args:
          batches: images, float32 [n, H, W, C] in [0, 1], with n <= `size`.
        """
        batches = iter(batches)
        while group := list(itertools.islice(batches, self._replicas)):
            padded = [self._padded(images) for images in group]
            for images, h in zip(group, self._run(padded)):
                yield h.numpy()[: len(images)]

    def _padded(self, images):
        missing = self._size - len(images)
        return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]]) if missing else images

    def _run(self, group):
        """h of one batch per replica; with fewer batches than replicas some are computed twice."""
        if self._alone:
            return [self._step(group[0])]
        taken = itertools.cycle(group)
        values = self._strategy.experimental_distribute_values_from_function(lambda _: next(taken))
        return self._strategy.experimental_local_results(self._step(values))


def even_size(num_examples: int, batch_size: int) -> int:
    """The smallest batch that needs no more batches than `batch_size`: it needs least padding."""
    return -(-num_examples // -(-num_examples // batch_size))


def represent(
    encoder,
    source,
    *,
    image_size: int,
    batch_size: int,
    name: str = "",
    strategy: tf.distribute.Strategy | None = None,
) -> np.ndarray:
    """Computes h for every image of a source.

    Args:
      encoder: from images to h; built under the strategy, if there is one.
      source: the images.
      image_size: side in pixels.
      batch_size: the most images that a replica gets at a time.
      name: title of the progress bar.
      strategy: its replicas on this host share the work; None: the current device does it all.

    Returns:
      float32 [N, D], in the order of the source; the same bits for any number of replicas.

    Raises:
      UserError: an image cannot be read.
    """
    size = even_size(source.num_examples, batch_size)
    dataset = eval_dataset(source, batch_size=size, image_size=image_size)
    batches = Computer(encoder, size, strategy)(dataset)
    total = -(-source.num_examples // size)
    with naming_bad_images(source):
        return np.concatenate(list(tqdm(batches, name, total, mininterval=5, delay=3)))


def check_channels(encoder: keras.Model, source) -> None:
    """Raises UserError if the encoder takes images with another number of channels."""
    expected = encoder.input_shape[-1]
    if expected != source.channels:
        raise UserError(
            f"the encoder takes images of {expected} channel(s), {source.name!r} has "
            f"{source.channels}; pass --channels={expected} or another --init_from."
        )
