"""The decoupled contrastive loss: NT-Xent without the positive in its softmax."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_simclr.losses.contrast import Contrast
from tf_simclr.losses.nt_xent import TemperatureLoss, log_sum_of_random, logits
from tf_simclr.losses.pairs import check_negatives, require_negatives
from tf_simclr.stack import keras


def decoupled(
    z_a: tf.Tensor, z_b: tf.Tensor, temperature: float = 0.1, *, ranks: bool = True
) -> Contrast:
    """The decoupled contrastive loss: NT-Xent without the positive in the sum of its softmax.

        l(i, j) = -s(i, j) / T + log sum over the views k of other images of exp(s(i, k) / T)

    (Yeh et al., arXiv:2110.06848, eq. 6). Where NT-Xent's gradient fades as the positive comes to
    dominate the sum, this one's does not, which helps small batches. It can be negative.

    Arguments, result and replicas: as for `nt_xent`.

    Raises:
      UserError: as `nt_xent`; or the global batch is a single image, which has no negatives.
    """
    require_negatives(z_a, "decoupled")
    positive, log_negatives, rank = logits(z_a, z_b, temperature, ranks=ranks)
    return Contrast(tf.reduce_mean(log_negatives - positive), rank)


@keras.utils.register_keras_serializable(package="tf_simclr")
class DecoupledContrastiveLoss(TemperatureLoss):
    """`decoupled` as a loss; see `NTXent` for replicas and levels.

    Attributes:
      temperature: T > 0.
    """

    _function = staticmethod(decoupled)

    def __init__(self, temperature: float = 0.1, name: str = "decoupled"):
        super().__init__(temperature, name)

    def levels(self, num_pairs, dim):
        check_negatives(num_pairs, "decoupled")
        negatives = 2 * num_pairs - 2
        return {
            "chance_level": math.log(negatives),
            "untrained_level": log_sum_of_random(negatives, dim, self.temperature),
        }
