"""Fine-tuning: trains all or the upper part of an encoder with a linear classifier on h."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr import losses
from tf_simclr.errors import UserError
from tf_simclr.models.recompute import penalties
from tf_simclr.models.skipping import counting_skips, skipping
from tf_simclr.stack import keras

EVERYTHING, CLASSIFIER_ONLY = -1, 4


def classifier(
    encoder: keras.Model, num_classes: int, fine_tune_after_block: int = EVERYTHING
) -> keras.Model:
    """Puts a linear classifier on the representation (SimCLR, arXiv:2002.05709, appendix B.5).

    Frozen layers run in inference mode: their batch normalisation uses moving statistics and does
    not update them. Differs from google-research/simclr (tf2/resnet.py), where frozen blocks
    continue to update theirs.

    Args:
      encoder: images to h [N, D]; shares its variables with the result.
      num_classes: the labels are 0 to num_classes - 1.
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
    head = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype="float32",
        name="classifier",
    )
    return keras.Model(encoder.input, head(encoder.output), name="classifier_model")


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


class ClassifierTraining(keras.Model):
    """Trains a classifier, which itself stays a plain Keras model.

    A step takes (images [n, H, W, C] float32, labels [n] int) and minimises the mean cross-entropy
    over the global batch plus the layers' own penalties.

    Attributes:
      classifier: from images to logits [n, classes].
      skip_bad_steps: whether a step whose gradient is NaN or infinite leaves weights, optimiser and
        moving statistics as they were; the metric `skipped_steps` counts such steps.
    """

    def __init__(self, classifier: keras.Model, skip_bad_steps: bool = False):
        super().__init__(name="classifier_training")
        self.classifier = classifier
        self.skip_bad_steps = skip_bad_steps
        self._means = [keras.metrics.Mean(name=name) for name in ("loss", "top1")]
        self._skipped = keras.metrics.Sum(name="skipped_steps")

    def compile(self, optimizer):
        """Takes the optimiser; the loss is the cross-entropy."""
        super().compile(skipping(optimizer) if self.skip_bad_steps else optimizer)

    @property
    def metrics(self):
        return [*self._means, *([self._skipped] if self.skip_bad_steps else [])]

    def call(self, inputs, training=False):
        return self.classifier(inputs, training=training)

    def train_step(self, data):
        step = self._minimize
        if self.skip_bad_steps:
            moving = self.classifier.non_trainable_variables
            step = counting_skips(step, self.optimizer, moving, self._skipped)
        for mean, values in zip(self._means, step(*data)):
            weights = None
            if self.skip_bad_steps:  # Skipped steps do not enter the means either.
                weights = tf.cast(tf.math.is_finite(values), tf.float32)
                values = tf.where(tf.math.is_finite(values), values, 0.0)
            mean.update_state(values, sample_weight=weights)
        return {metric.name: metric.result() for metric in self.metrics}

    def _minimize(self, images, labels):
        """Returns the cross-entropy [n], and whether the label is the top class [n]."""
        with tf.GradientTape() as tape:
            logits = self.classifier(images, training=True)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(each) + penalties([self.classifier])
            loss = losses.replica_share(loss)
        self.optimizer.minimize(loss, self.classifier.trainable_variables, tape=tape)
        return each, keras.metrics.sparse_categorical_accuracy(labels, logits)
