"""Evaluation in the course of training: an evaluator on frozen features of the encoder as it is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.pipeline import eval_dataset
from tf_simclr.evaluation.evaluators import Evaluator, scalars
from tf_simclr.evaluation.labelled import Labelled
from tf_simclr.features import Computer, even_size
from tf_simclr.models.batch_norm import plain_copy, plain_form


class OnlineEvaluation:
    """Evaluates an encoder that is being trained, and leaves no trace in the training.

    It works on a plain float32 copy of the encoder, whose batch normalisation uses the moving
    statistics: the encoder that would be exported. The copy is made and compiled once; each
    evaluation gives it the current weights. Features stay in memory and are dropped.

    Reading the weights takes part in a collective operation where replicas keep their own moving
    statistics, whose mean is read. So with several hosts every host must call it at the same step.
    Each then computes all features on its own devices, without waiting for the others.
    """

    def __init__(
        self,
        encoder: tf.keras.Model,
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
          encoder: that is trained under the strategy.
          strategy: whose replicas on this host compute the features.
          evaluator: prepared for the labels.
          splits: (source, its labels) to learn from, and to predict.
          image_size, batch_size: as `features.represent`.
          most_bytes: images of a split stay in memory, as the encoder sees them, where they take at
            most so many; else they are read and decoded for every evaluation.
        """
        self._strategy = strategy
        self._evaluator = evaluator
        with strategy.scope(), _random_state_kept():
            self._copy = plain_copy(encoder)
        # In plain form the weights of both have one order.
        with plain_form(encoder), plain_form(self._copy):
            self._weights = list(zip(self._copy.weights, encoder.weights))
        size = even_size(max(source.num_examples for source, _ in splits), batch_size)
        self._computer = Computer(self._copy, size, strategy)
        self._splits = []
        for source, labelled in splits:
            images = eval_dataset(source, batch_size=size, image_size=image_size)
            bytes_taken = 4 * source.num_examples * image_size**2 * source.channels
            if bytes_taken <= most_bytes:
                images = images.cache()
            self._splits.append((source, images, labelled))

    def __call__(self) -> dict[str, float]:
        """Evaluates the encoder as it is now.

        Returns:
          The evaluator's numbers by their names in metrics.jsonl, such as "knn_top1"; none, with a
          warning, where features are not finite: that is for the training to judge.

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

    def _features(self, source, images) -> np.ndarray:
        with naming_bad_images(source):
            return np.concatenate(list(self._computer(images)))


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Puts the global random generators back: building a model draws initial weights from them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
