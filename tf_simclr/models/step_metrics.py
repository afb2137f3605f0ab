"""What a step of SimCLR tells about itself, as means over steps."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr import losses

_WATCHED_ROWS = 512  # Embeddings whose spread is looked at; uniformity's cost is quadratic.


class StepMetrics:
    """Means of the loss, the accuracies and the embeddings' spread, until they are reset.

    Attributes:
      means: {name: tf.keras.metrics.Mean}.
    """

    def __init__(self, probe: bool, finite_only: bool):
        """Makes the metrics' variables.

        Args:
          probe: whether there is an online probe to observe.
          finite_only: leave NaN and infinity out of the means: of steps that were left out too.
        """
        names = ["loss", "contrastive_top1", "contrastive_top5", "embedding_std", "alignment"]
        names += ["uniformity", "effective_rank"]
        names += ["probe_loss", "probe_top1"] if probe else []
        self.means = {name: tf.keras.metrics.Mean(name=name) for name in names}
        self._finite_only = finite_only

    def update(self, contrast: losses.NTXentOutput, z_a: tf.Tensor, z_b: tf.Tensor) -> None:
        """Takes in a step: what `nt_xent` says of the embeddings z_a, z_b [N, D], and these."""
        rank = contrast.positive_rank
        observed = {
            "loss": contrast.loss,
            "contrastive_top1": tf.cast(rank < 1, tf.float32),
            "contrastive_top5": tf.cast(rank < 5, tf.float32),
            "embedding_std": losses.embedding_std(z_a),
            "alignment": losses.alignment(z_a, z_b),
            "uniformity": losses.uniformity(z_a[:_WATCHED_ROWS]),
            "effective_rank": losses.effective_rank(z_a[:_WATCHED_ROWS]),
        }
        for name, value in observed.items():
            if self._finite_only:
                finite = tf.math.is_finite(value)
                value, weight = tf.where(finite, value, 0.0), tf.cast(finite, tf.float32)
                self.means[name].update_state(value, sample_weight=weight)
            else:
                self.means[name].update_state(value)

    def update_probe(self, loss: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor) -> None:
        """Takes in the probe's cross-entropies [n], labels [n] and logits [n, classes]."""
        self.means["probe_loss"].update_state(loss)
        correct = tf.keras.metrics.sparse_categorical_accuracy(labels, logits)
        self.means["probe_top1"].update_state(correct)
