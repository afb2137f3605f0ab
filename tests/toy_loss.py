"""A loss with neither negatives, ranks nor levels, for tests of what any loss may be."""

from __future__ import annotations

import tensorflow as tf

import tf_simclr


@tf.keras.utils.register_keras_serializable(package="tests")
class Pull(tf_simclr.ContrastiveLoss):
    """strength * mean |z_a - z_b|^2 + mean |z_a|^2: the order of the views matters."""

    def __init__(self, strength: float = 0.5, name: str | None = None):
        super().__init__(name=name)
        self.strength = strength

    def contrast(self, z_a, z_b):
        apart = tf.reduce_mean(tf.reduce_sum(tf.math.squared_difference(z_a, z_b), axis=1))
        return tf_simclr.Contrast(
            self.strength * apart + tf.reduce_mean(tf.reduce_sum(z_a * z_a, axis=1))
        )

    def get_config(self):
        return {"strength": self.strength, **super().get_config()}
