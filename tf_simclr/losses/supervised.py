"""The supervised contrastive loss: all images of a class are positives."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.losses.contrast import Contrast, ContrastiveLoss
from tf_simclr.losses.negatives import Sum, over_replicas
from tf_simclr.losses.nt_xent import chance_level, untrained_level
from tf_simclr.losses.pairs import check_temperature, rows_of
from tf_simclr.losses.same_class import SameClass
from tf_simclr.losses.terms import LOG_SUM_EXP
from tf_simclr.stack import keras


def supervised(
    z_a: tf.Tensor, z_b: tf.Tensor, labels: tf.Tensor, temperature: float = 0.1
) -> Contrast:
    """The supervised contrastive loss, L_out.

    With s(i, k) the cosine similarity and P(i) the other views with the label of i,

        l(i) = -1 / |P(i)| sum_{p in P(i)} log( exp(s(i, p) / T) / sum_{a != i} exp(s(i, a) / T) ),
        L = mean of l over all 2N views

    (Khosla et al., arXiv:2004.11362, eq. 2, which sums over the views instead). The other view of
    the image is always in P(i). If no label occurs twice, it is NT-Xent.

    Replicas and tiles: as for `nt_xent`. The labels are sent with the embeddings. The sums over
    P(i) are taken class by class, with memory linear in the batch.

    Args:
      z_a: [n, D] embeddings of the first views, any float dtype, not normalised.
      z_b: [n, D] embeddings of the second views, in the same order.
      labels: [n] integers, the classes of the images; any values.
      temperature: T > 0; the paper has 0.1.

    Returns:
      The mean of l(i) over the 2n views of this replica. No ranks: images of the same class may be
      nearer than the other view, and should be.

    Raises:
      UserError: temperature is not positive, the shapes differ, or labels are not integers [n].
    """
    views, positive = rows_of(z_a, z_b, temperature)
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer or not labels.shape.is_compatible_with(z_a.shape[:1]):
        raise UserError(
            f"labels must be integers {z_a.shape[:1]}, one for each pair; received "
            f"{labels.dtype.name} {labels.shape}."
        )
    sums = Sum(LOG_SUM_EXP, largest_logit=1.0 / temperature)
    (log_negatives, same_class), _ = over_replicas(views, sums, SameClass(labels))
    # The log of the sum over all others, the positive included, minus the mean of P(i).
    loss = tf.nn.softplus(log_negatives - positive) + (positive - same_class)
    return Contrast(tf.reduce_mean(loss))


@keras.utils.register_keras_serializable(package="tf_simclr")
class SupervisedContrastive(ContrastiveLoss):
    """`supervised` as a loss, `contrast(z_a, z_b, labels)`; see `NTXent` for replicas and levels.

    Attributes:
      temperature: T > 0.
    """

    needs_labels = True

    def __init__(self, temperature: float = 0.1, name: str = "supervised"):
        check_temperature(temperature)
        super().__init__(name=name)
        self.temperature = temperature

    def contrast(self, z_a, z_b, labels):
        return supervised(z_a, z_b, labels, self.temperature)

    def levels(self, num_pairs, dim):
        # Those of NT-Xent: random positives have a mean cosine of 0, however many there are.
        return {
            "chance_level": chance_level(num_pairs),
            "untrained_level": untrained_level(num_pairs, dim, self.temperature),
        }

    def get_config(self):
        return {"temperature": self.temperature, **super().get_config()}
