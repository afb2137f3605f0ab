"""Fine-tuning: an encoder with a linear classifier on h, all of it or its upper part trained."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.errors import UserError

EVERYTHING, CLASSIFIER_ONLY = -1, 4


def classifier(
    encoder: tf.keras.Model, num_classes: int, fine_tune_after_block: int = EVERYTHING
) -> tf.keras.Model:
    """Puts a linear classifier on the representation (SimCLR, arXiv:2002.05709, appendix B.5).

    Frozen layers run in inference mode: their batch normalisation neither uses nor moves batch
    statistics. Differs from google-research/simclr (tf2/resnet.py), where frozen blocks went on
    moving theirs.

    Args:
      encoder: images to h [N, D]; shares its variables with the result.
      num_classes: of the labels, 0 to num_classes - 1.
      fine_tune_after_block: -1 trains everything, 0 all but the stem, 1 to 3 the block groups
        after that one, 4 the classifier only.

    Returns:
      A functional model from images to logits [N, num_classes] float32; its last layer is
      "classifier".

    Raises:
      UserError: the encoder has no such block group, or the number of classes is too small.
    """
    if num_classes < 2:
        raise UserError(f"num_classes must be at least 2; received {num_classes!r}.")
    frozen = _frozen_layers(encoder, fine_tune_after_block)
    encoder.trainable = True
    for layer in frozen:
        layer.trainable = False
    head = tf.keras.layers.Dense(
        num_classes,
        kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
        dtype="float32",
        name="classifier",
    )
    return tf.keras.Model(encoder.input, head(encoder.output), name="classifier_model")


def _frozen_layers(encoder, fine_tune_after_block):
    if fine_tune_after_block == EVERYTHING:
        return []
    if fine_tune_after_block == CLASSIFIER_ONLY:
        return encoder.layers
    last = f"block_group{fine_tune_after_block}" if fine_tune_after_block else "initial_max_pool"
    names = [layer.name for layer in encoder.layers]
    if last not in names:
        raise UserError(
            f"fine_tune_after_block={fine_tune_after_block} needs an encoder with a layer "
            f"{last!r}, as our ResNets have; {encoder.name!r} has none. Use -1 (everything) or 4 "
            "(the classifier only)."
        )
    return encoder.layers[: names.index(last) + 1]
