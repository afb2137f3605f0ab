"""NT-Logistic: positives and negatives as a binary classification of pairs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_simclr.distribute import num_replicas
from tf_simclr.losses.contrast import Contrast
from tf_simclr.losses.negatives import Sum, over_replicas
from tf_simclr.losses.nt_xent import TemperatureLoss
from tf_simclr.losses.pairs import (
    MOST_DRAWN,
    bar_of,
    check_negatives,
    random_cosines,
    rank_of,
    require_negatives,
    rows_of,
)
from tf_simclr.losses.terms import SUM_SOFTPLUS
from tf_simclr.stack import keras


def nt_logistic(
    z_a: tf.Tensor, z_b: tf.Tensor, temperature: float = 0.1, *, ranks: bool = True
) -> Contrast:
    """The normalised temperature-scaled logistic loss.

    With s(i, k) the cosine similarity, j the other view of the same image and sigma the logistic
    function,

        l(i, j) = -log sigma(s(i, j) / T) - mean over k of log sigma(-s(i, k) / T),
        L = mean of l over all 2N views

    (SimCLR, arXiv:2002.05709, table 2, "NT-Logistic", which is written for one negative). k runs
    over the 2N - 2 views of other images. Their mean, not their sum, stands for the one negative of
    the table, so that positive and negatives weigh the same at any batch size.

    Differs from the paper's experiment: appendix B.10 takes the negatives from one augmentation
    only, which it calls slightly worse; here they are those of NT-Xent. The paper also tries the
    loss with semi-hard negatives; here all negatives count.

    Arguments, result, replicas and tiles: as for `nt_xent`, but tiles work at any temperature. The
    paper tries T of 0.1, 0.2, 0.5 and 1.

    Raises:
      UserError: as `nt_xent`; or the global batch is a single image, which has no negatives.
    """
    require_negatives(z_a, "nt_logistic")
    views, positive = rows_of(z_a, z_b, temperature)
    bar = bar_of(positive, temperature) if ranks else None
    sums = Sum(SUM_SOFTPLUS, bar, largest_logit=1.0 / temperature)
    (of_negatives,), counts = over_replicas(views, sums)
    negatives = num_replicas() * tf.shape(views)[0] - 2
    of_negatives /= tf.cast(negatives, tf.float32)
    return Contrast(tf.reduce_mean(tf.nn.softplus(-positive) + of_negatives), rank_of(*counts))


@keras.utils.register_keras_serializable(package="tf_simclr")
class NTLogistic(TemperatureLoss):
    """`nt_logistic` as a loss; see `NTXent` for replicas and levels.

    Attributes:
      temperature: T > 0.
    """

    _function = staticmethod(nt_logistic)

    def __init__(self, temperature: float = 0.1, name: str = "nt_logistic"):
        super().__init__(temperature, name)

    def levels(self, num_pairs, dim):
        check_negatives(num_pairs, "nt_logistic")

        def level(cosines):
            logits = cosines / self.temperature
            return float(np.mean(np.logaddexp(0.0, -logits) + np.logaddexp(0.0, logits)))

        return {
            "chance_level": level(np.ones(1)),
            "untrained_level": level(random_cosines(MOST_DRAWN, dim)),
        }
