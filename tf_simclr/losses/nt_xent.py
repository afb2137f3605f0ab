"""NT-Xent as the paper writes it: a pure function of embeddings, and a Keras loss."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_simclr.losses.contrast import Contrast, ContrastiveLoss
from tf_simclr.losses.negatives import Sum, over_replicas
from tf_simclr.losses.pairs import (
    MOST_DRAWN,
    bar_of,
    check_temperature,
    random_cosines,
    rank_of,
    rows_of,
)
from tf_simclr.losses.terms import LOG_SUM_EXP
from tf_simclr.stack import keras


def nt_xent(
    z_a: tf.Tensor, z_b: tf.Tensor, temperature: float = 0.1, *, ranks: bool = True
) -> Contrast:
    """The normalised temperature-scaled cross entropy loss.

    With s(i, k) the cosine similarity and j the other view of the same image,

        l(i, j) = -log( exp(s(i, j) / T) / sum_{k != i} exp(s(i, k) / T) ),
        L = mean of l over all 2N views

    (SimCLR, arXiv:2002.05709, eq. 1 and Algorithm 1). In a replica context the rows i are this
    replica's views and the columns k are the views of all replicas, with gradients through the
    gather: the mean of the replicas' losses is L over the global batch.

    Large batches are computed in tiles, with memory linear in the batch (`losses/negatives.py`).
    Tiles need a batch size known when the step is traced (`drop_remainder=True`) and T >= 1/50.

    Differs from google-research/simclr (tf2/objective.py): that returns the sum of two means,
    twice the paper's L.

    Args:
      z_a: [n, D] embeddings of the first views, any float dtype, not normalised.
      z_b: [n, D] embeddings of the second views, in the same order.
      temperature: T > 0.
      ranks: whether to count how many negatives each positive has ahead of it.

    Returns:
      The mean of l(i, j) over the 2n views of this replica, and the rank of each positive among
      its 2N - 2 negatives; without `ranks` None. Ties count against the positive, so that a
      collapsed encoder does not look perfect.

    Raises:
      UserError: temperature is not positive, or the shapes differ.
    """
    positive, log_negatives, rank = logits(z_a, z_b, temperature, ranks=ranks)
    # -log(e^p / (e^p + sum)) without the difference of two nearly equal numbers when p dominates.
    return Contrast(tf.reduce_mean(tf.nn.softplus(log_negatives - positive)), rank)


def logits(
    z_a: tf.Tensor, z_b: tf.Tensor, temperature: float, *, ranks: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """What softmax losses are made of, for both views of each image, one after the other.

    Args:
      z_a, z_b, temperature, ranks: as for `nt_xent`.

    Returns:
      (s(i, j) / T of the positive j, [2n]; log of the sum of exp(s(i, k) / T) over the views k of
      other images, of all replicas, [2n]; the ranks that `nt_xent` returns). In the first two, the
      views of an image are neighbours; the ranks have all first views before all second views.

    Raises:
      UserError: temperature is not positive, or the shapes differ.
    """
    views, positive = rows_of(z_a, z_b, temperature)
    bar = bar_of(positive, temperature) if ranks else None
    sums = Sum(LOG_SUM_EXP, bar, largest_logit=1.0 / temperature)
    (log_negatives,), counts = over_replicas(views, sums)
    return positive, log_negatives, rank_of(*counts)


class TemperatureLoss(ContrastiveLoss):
    """A loss whose setting is a temperature. Subclasses set `_function`, with `nt_xent`'s form."""

    ranks_positives = True

    def __init__(self, temperature: float = 0.1, name: str | None = None):
        check_temperature(temperature)
        super().__init__(name=name)
        self.temperature = temperature

    def contrast(self, z_a, z_b):
        return self._function(z_a, z_b, self.temperature)

    def call(self, y_true, y_pred):
        return self._function(y_true, y_pred, self.temperature, ranks=False).loss

    def get_config(self):
        return {"temperature": self.temperature, **super().get_config()}


@keras.utils.register_keras_serializable(package="tf_simclr")
class NTXent(TemperatureLoss):
    """`nt_xent` as a loss: `NTXent(temperature)(z_a, z_b)` is the paper's L, a scalar.

    Outside a replica context, and there with one replica, it is L over the batch; in a replica
    context it is this replica's share, whose mean over replicas is L over the global batch. Its
    levels are `chance_level` and `untrained_level`.

    Attributes:
      temperature: T > 0; 0.1 is best for ImageNet, 0.5 for CIFAR-10 (paper, section 5.1 and
        appendix B.9).
    """

    _function = staticmethod(nt_xent)

    def __init__(self, temperature: float = 0.1, name: str = "nt_xent"):
        super().__init__(temperature, name)

    def levels(self, num_pairs, dim):
        return {
            "chance_level": chance_level(num_pairs),
            "untrained_level": untrained_level(num_pairs, dim, self.temperature),
        }


def chance_level(num_pairs: int) -> float:
    """L if all embeddings are equal: log(2N - 1), each of the 2N - 1 others equally likely."""
    return math.log(2 * num_pairs - 1)


def untrained_level(num_pairs: int, dim: int, temperature: float) -> float:
    """The mean L of embeddings in random directions: about where an untrained encoder starts.

    It lies above `chance_level`, and the more so the lower T and D: among 2N - 1 random directions
    some are similar to the anchor by accident, and 1 / T multiplies their share of the sum. With s
    the cosine of two random unit vectors, (1 + s) / 2 ~ Beta((D - 1) / 2, (D - 1) / 2),

        L = E[ log sum_{k=1}^{2N - 1} exp(s_k / T) ],    E[s] = 0 for the positive.

    The mean is taken over a fixed sample of 2^20 cosines.

    Args:
      num_pairs: N, of the global batch.
      dim: D of the embeddings.
      temperature: T > 0.
    """
    return log_sum_of_random(2 * num_pairs - 1, dim, temperature)


def log_sum_of_random(candidates: int, dim: int, temperature: float) -> float:
    """The mean log of the sum of exp(s / T) over the cosines s of random directions in D."""
    drawn = min(candidates, MOST_DRAWN)  # The sum over more of them is proportional.
    cosines = random_cosines(drawn, dim)
    largest = cosines.max(axis=1, keepdims=True)
    sums = np.exp((cosines - largest) / temperature).sum(axis=1)
    level = np.mean(largest[:, 0] / temperature + np.log(sums))
    return float(level + math.log(candidates / drawn))
