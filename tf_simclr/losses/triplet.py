"""The margin triplet loss with semi-hard negatives."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.losses.contrast import Contrast, ContrastiveLoss
from tf_simclr.losses.negatives import over_replicas
from tf_simclr.losses.pairs import (
    MOST_DRAWN,
    bar_of,
    check_negatives,
    random_cosines,
    rank_of,
    require_negatives,
    rows_of,
)
from tf_simclr.losses.semi_hard import SemiHard
from tf_simclr.stack import keras


def triplet(z_a: tf.Tensor, z_b: tf.Tensor, margin: float = 0.4, *, ranks: bool = True) -> Contrast:
    """The margin triplet loss on cosines, with one semi-hard negative per view.

    With s(i, k) the cosine similarity and j the other view of the same image,

        l(i, j) = max(s(i, k*) - s(i, j) + margin, 0),
        k* = argmax over the negatives k with s(i, k) < s(i, j) of s(i, k),
        L = mean of l over all 2N views

    (SimCLR, arXiv:2002.05709, table 2 and appendix B.10, "Margin Triplet" with semi-hard negatives
    as in FaceNet, arXiv:1503.03832). The negatives are the 2N - 2 views of other images. If all of
    them are at least as similar as the positive, k* is the least similar. A negative within 1e-6 of
    the positive counts as equal to it, and so is not semi-hard.

    This is tensorflow-addons' TripletSemiHardLoss with distance_metric="angular", and half of it
    with "squared-L2" distances of normalised embeddings and twice the margin, as
    |u - v|^2 = 2 - 2 s.

    Differs from the paper's experiment: appendix B.10 takes the negatives from one augmentation
    only, which it calls slightly worse.

    Large batches are compared in parts, with memory linear in the batch (`losses/semi_hard.py`),
    if the batch size is known when the step is traced.

    Args:
      z_a: [n, D] embeddings of the first views, any float dtype, not normalised.
      z_b: [n, D] embeddings of the second views, in the same order.
      margin: m >= 0; the paper tries 0, 0.4, 0.8 and 1.6. With 0 only views without any semi-hard
        negative have a loss.
      ranks: whether to return the ranks, as `nt_xent` does; they cost nothing here.

    Returns:
      The mean of l(i, j) over the 2n views of this replica, and the ranks. Replicas: as `nt_xent`.

    Raises:
      UserError: margin is negative or not finite; the shapes differ; or the global batch is a
        single image, which has no negatives.
    """
    _check_margin(margin)
    require_negatives(z_a, "triplet")
    views, positive = rows_of(z_a, z_b)
    (negative,), counts = over_replicas(views, SemiHard(bar_of(positive)))
    loss = tf.reduce_mean(tf.nn.relu(negative - positive + margin))
    return Contrast(loss, rank_of(*counts) if ranks else None)


@keras.utils.register_keras_serializable(package="tf_simclr")
class MarginTriplet(ContrastiveLoss):
    """`triplet` as a loss; see `NTXent` for replicas and levels.

    Attributes:
      margin: m >= 0.
    """

    ranks_positives = True

    def __init__(self, margin: float = 0.4, name: str = "triplet"):
        _check_margin(margin)
        super().__init__(name=name)
        self.margin = margin

    def contrast(self, z_a, z_b):
        return triplet(z_a, z_b, self.margin)

    def levels(self, num_pairs, dim):
        check_negatives(num_pairs, "triplet")
        # Among more negatives, the hardest is no further from the positive than can be seen.
        cosines = random_cosines(min(2 * num_pairs - 1, MOST_DRAWN), dim)
        positive, negatives = cosines[:, :1], cosines[:, 1:]
        below = np.where(negatives < positive, negatives, -np.inf).max(axis=1)
        chosen = np.where(np.isfinite(below), below, negatives.min(axis=1))
        losses = np.maximum(chosen - positive[:, 0] + self.margin, 0.0)
        return {"chance_level": float(self.margin), "untrained_level": float(np.mean(losses))}

    def get_config(self):
        return {"margin": self.margin, **super().get_config()}


def _check_margin(margin: float) -> None:
    if not 0.0 <= margin < math.inf:
        raise UserError(f"margin must be at least 0; received {margin!r}. Try 0.4.")
