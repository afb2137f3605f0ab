"""The base class of contrastive losses: what a model and a run need from a loss."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_simclr.distribute import num_replicas
from tf_simclr.errors import UserError
from tf_simclr.stack import keras


class Contrast(NamedTuple):
    """The result of a loss on a batch of pairs."""

    loss: tf.Tensor
    """Scalar float32: the mean loss of this replica's pairs."""
    positive_rank: tf.Tensor | None = None
    """[2n] int32: how many negatives are at least as similar as the positive, first views before
    second views; None: the loss does not count them."""


class ContrastiveLoss(keras.losses.Loss):
    """Base class of losses on pairs of embeddings, for `SimCLR(encoder, head, loss=...)`.

    A subclass implements `contrast`; it also sets `ranks_positives` and implements `levels` if it
    has them. To be saved with a model, it adds its constructor's arguments to `get_config` and is
    registered with `tf.keras.utils.register_keras_serializable`. A loss has no weights.

        @keras.utils.register_keras_serializable(package="mine")
        class Alignment(tf_simclr.ContrastiveLoss):
            def contrast(self, z_a, z_b):
                u_a, u_b = (tf.math.l2_normalize(z, axis=1) for z in (z_a, z_b))
                return tf_simclr.Contrast(tf.reduce_mean(tf.reduce_sum((u_a - u_b) ** 2, axis=1)))

    As any Keras loss it can be called: `loss(z_a, z_b)` is the scalar alone. A loss that needs
    labels cannot.

    Attributes:
      ranks_positives: whether `contrast` returns ranks, from which the model reports
        contrastive_top1 and contrastive_top5.
      needs_labels: whether the loss takes the labels of the images, `contrast(z_a, z_b, labels)`
        with labels [n] int64. `SimCLR` then trains on pairs with labels only.
    """

    ranks_positives = False
    needs_labels = False

    def __init__(self, name: str | None = None):
        # `contrast` takes the mean itself.
        super().__init__(reduction="none", name=name or type(self).__name__)

    def contrast(self, z_a: tf.Tensor, z_b: tf.Tensor) -> Contrast:
        """The loss of a replica's pairs, differentiable in both arguments.

        The mean of the replicas' losses is the loss of the global batch. A loss with negatives
        gathers those of the other replicas itself (`distribute.gather_others`).

        Args:
          z_a: [n, D] embeddings of the first views, any float dtype, not normalised.
          z_b: [n, D] embeddings of the second views, in the same order.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement contrast(z_a, z_b).")

    def levels(self, num_pairs: int, dim: int) -> dict[str, float]:
        """The losses of embeddings that hold no information, to compare a run with.

        Args:
          num_pairs: N, of the global batch.
          dim: D of the embeddings.

        Returns:
          {name in metrics.jsonl: level}: "chance_level" for identical embeddings and
          "untrained_level" for embeddings in random directions; {} if the loss has none.
        """
        return {}

    def call(self, y_true, y_pred):
        return contrast_of(self, y_true, y_pred).loss

    def get_config(self):
        return {"name": self.name}


def contrast_of(
    loss: ContrastiveLoss, z_a: tf.Tensor, z_b: tf.Tensor, labels: tf.Tensor | None = None
) -> Contrast:
    """`loss.contrast(z_a, z_b)`, with the labels if the loss needs them, checked.

    Args:
      loss: the loss.
      z_a, z_b: as for `contrast`.
      labels: [n] integers, the classes of the images; None for a loss that does not need them.

    Raises:
      UserError: the loss needs labels and there are none; or the result is not a `Contrast`, or its
        loss is not a scalar. A vector would train too, but on the sum of its entries.
    """
    if loss.needs_labels and labels is None:
        raise UserError(
            f"loss {loss.name!r} needs the labels of the images: contrast(z_a, z_b, labels)."
        )
    contrast = loss.contrast(z_a, z_b, *([labels] if loss.needs_labels else []))
    if not isinstance(contrast, Contrast):
        raise UserError(
            f"{type(loss).__name__}.contrast must return tf_simclr.Contrast(loss); received "
            f"{type(contrast).__name__}."
        )
    shape = tf.convert_to_tensor(contrast.loss).shape
    if shape.rank:
        raise UserError(
            f"{type(loss).__name__}.contrast must return a scalar loss, the mean over the pairs; "
            f"received shape {shape}."
        )
    return contrast


def replica_share(loss: tf.Tensor) -> tf.Tensor:
    """loss / replicas: optimisers sum gradients over replicas, the global loss is their mean."""
    return loss / num_replicas()
