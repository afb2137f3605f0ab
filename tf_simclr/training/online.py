"""Evaluation during training: runs an evaluator on features of the current encoder."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.evaluation.evaluators import Evaluator, scalars
from tf_simclr.evaluation.labelled import Labelled
from tf_simclr.features import Computer, even_size
from tf_simclr.models.batch_norm import plain_copy, plain_form
from tf_simclr.stack import keras

_BATCHES = 8  # Whose time is measured, unless they are slow.
_SLOW = 2.0  # Seconds.


class OnlineEvaluation:
    """Evaluates an encoder during training, without any effect on the training.

    It uses a plain float32 copy of the encoder with moving statistics, the same that would be
    exported. The copy is made and compiled once, and gets the current weights at each evaluation.
    Features are kept in memory only, until the evaluation ends.

    If replicas keep their own moving statistics, reading their mean is a collective operation. So
    with several hosts every host must call this at the same step. Each host then computes all
    features on its own devices, without waiting for the others.
    """

    def __init__(
        self,
        encoder: keras.Model,
        strategy: tf.distribute.Strategy,
        evaluator: Evaluator,
        splits: tuple[tuple[object, Labelled], tuple[object, Labelled]],
        *,
        image_size: int,
        batch_size: int,
        most_bytes: float,
    ):
        """
        Args:
          encoder: the encoder, which is trained under the strategy.
          strategy: its replicas on this host compute the features.
          evaluator: prepared for the labels.
          splits: (source, its labels) to learn from, and (source, its labels) to predict.
          image_size, batch_size: as in `features.represent`.
          most_bytes: preprocessed images of a split stay in memory if they take at most this many
            bytes; otherwise they are read and decoded for every evaluation.
        """
        self._strategy = strategy
        self._evaluator = evaluator
        with strategy.scope(), _random_state_kept():
            self._copy = plain_copy(encoder)
        # In plain form the weights of both have the same order.
        with plain_form(encoder), plain_form(self._copy):
            self._weights = list(zip(self._copy.weights, encoder.weights))
        size = even_size(max(source.num_examples for source, _ in splits), batch_size)
        self._computer = Computer(self._copy, size, strategy)
        self._splits, self._read = [], []
        for source, labelled in splits:
            read = images = eval_dataset(source, batch_size=size, image_size=image_size)
            bytes_taken = 4 * source.num_examples * image_size**2 * source.channels
            if bytes_taken <= most_bytes:
                images = images.cache()
            self._splits.append((source, images, labelled))
            self._read.append((read, images is not read, -(-source.num_examples // size)))

    def __call__(self) -> dict[str, float]:
        """Evaluates the current encoder.

        Returns:
          The evaluator's numbers by their names in metrics.jsonl, such as "knn_top1". If features
          are not finite it logs a warning and returns {}; stopping is left to the training loop.

        Raises:
          UserError: an image cannot be read.
        """
        with self._strategy.scope():
            for copied, current in self._weights:
                copied.assign(current.numpy())
            train, test = (
                labelled.with_features(self._features(source, images))
                for source, images, labelled in self._splits
            )
        if not (np.isfinite(train.h).all() and np.isfinite(test.h).all()):
            logging.warning("Not evaluated: the encoder gives features that are not finite.")
            return {}
        return scalars(self._evaluator, self._evaluator.evaluate(train, test))

    def expected_seconds(self) -> tuple[float, float]:
        """Seconds that the first call will take, and each later one, estimated from a few batches.

        Raises:
          UserError: an image cannot be read.
        """
        first = later = 0.0
        random = np.random.default_rng(0)
        labelled = []
        for (source, _, labels), (read, kept, count) in zip(self._splits, self._read):
            with self._strategy.scope(), naming_bad_images(source):
                batch = next(iter(read))
                tracing, h = self._timed([batch])
                once, _ = self._timed([batch])
                some = 1 if once > _SLOW else min(_BATCHES, count)
                each, _ = self._timed(read.take(some))
                again, _ = self._timed([batch] * some) if kept else (each, h)
            first += max(tracing - once, 0.0) + each / some * count
            later += again / some * count
            h = random.standard_normal([source.num_examples, h[0].shape[1]], np.float32)
            labelled.append(labels.with_features(h))
        began = time.monotonic()
        self._evaluator.evaluate(*labelled)
        evaluating = time.monotonic() - began
        return first + evaluating, later + evaluating

    def _timed(self, batches) -> tuple[float, list[np.ndarray]]:
        """(seconds, h of each batch)."""
        began = time.monotonic()
        h = list(self._computer(batches))
        return time.monotonic() - began, h

    def _features(self, source, images) -> np.ndarray:
        with naming_bad_images(source):
            return np.concatenate(list(self._computer(images)))


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restores the global random generators, from which building a model draws weights."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
