"""The metrics of a SimCLR step, as means over steps."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr import losses
from tf_simclr.distribute import num_replicas
from tf_simclr.stack import keras

_TOP = {"contrastive_top1": 1, "contrastive_top5": 5}  # The positive is among the k nearest views.
_WATCHED_ROWS = 512  # Embeddings whose spread is measured; uniformity's cost is quadratic.


class _Unsaved:
    """A metric left out of .keras and .weights.h5 files: Keras cannot load it under a strategy.

    Nothing is lost, as its value covers only the current epoch. Files that hold it can be loaded.
    """

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        pass


@keras.utils.register_keras_serializable(package="tf_simclr")
class _Mean(_Unsaved, keras.metrics.Mean):
    pass


@keras.utils.register_keras_serializable(package="tf_simclr")
class _Sum(_Unsaved, keras.metrics.Sum):
    pass


class StepMetrics:
    """Means of the loss, the accuracies and the embeddings' spread, until they are reset.

    Attributes:
      means: {name: keras.metrics.Mean}.
      skipped: keras.metrics.Sum, the number of skipped steps.
    """

    def __init__(self, ranks: bool, probe: bool, finite_only: bool):
        """Makes the metrics' variables.

        Args:
          ranks: whether the loss ranks positives, which the contrastive accuracies need.
          probe: whether there is an online probe.
          finite_only: leave NaN and infinity, as skipped steps produce, out of the means.
        """
        self._top = _TOP if ranks else {}
        names = ["loss", *self._top, "embedding_std", "alignment", "uniformity", "effective_rank"]
        names += ["probe_loss", "probe_top1"] if probe else []
        self.means = {name: _Mean(name=name) for name in names}
        self.skipped = _Sum(name="skipped_steps")
        self._finite_only = finite_only

    def all(self, skipping: bool) -> list[keras.metrics.Metric]:
        """Every metric; `skipped` only if steps can be skipped."""
        return [*self.means.values(), *([self.skipped] if skipping else [])]

    def update(self, contrast: losses.Contrast, z_a: tf.Tensor, z_b: tf.Tensor) -> None:
        """Adds a step: the loss's result for the embeddings z_a, z_b [N, D], and their spread."""
        pairs = tf.shape(z_a)[0] if z_a.shape[0] is None else z_a.shape[0]
        # A single pair has no negatives, and a single embedding no spread: those are left out.
        contrasted, spread = pairs * num_replicas() > 1, pairs > 1
        rank = contrast.positive_rank
        top = {name: tf.cast(rank < k, tf.float32) for name, k in self._top.items()}
        observed = {
            "loss": (contrast.loss, contrasted),
            **{name: (value, contrasted) for name, value in top.items()},
            "embedding_std": (losses.embedding_std(z_a), spread),
            "alignment": (losses.alignment(z_a, z_b), True),
            "uniformity": (losses.uniformity(z_a[:_WATCHED_ROWS]), spread),
            "effective_rank": (losses.effective_rank(z_a[:_WATCHED_ROWS]), spread),
        }
        for name, (value, defined) in observed.items():
            if self._finite_only:
                defined = tf.math.is_finite(value) & defined
            weight = None
            if defined is not True:
                value, weight = tf.where(defined, value, 0.0), tf.cast(defined, tf.float32)
            self.means[name].update_state(value, sample_weight=weight)

    def update_probe(self, loss: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor) -> None:
        """Adds the probe's cross-entropies [n], labels [n] and logits [n, classes]."""
        self.means["probe_loss"].update_state(loss)
        correct = keras.metrics.sparse_categorical_accuracy(labels, logits)
        self.means["probe_top1"].update_state(correct)
