"""Tests of features: computing them and keeping them on disk."""

from __future__ import annotations

import tensorflow as tf


def small_encoder() -> tf.keras.Model:
    """From grey images of 8 pixels, or of any size, to 12 features, with batch normalisation."""
    layers = tf.keras.layers
    images = tf.keras.Input([None, None, 1])
    x = layers.Conv2D(12, 3, padding="same", name="conv")(images)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    return tf.keras.Model(images, x, name="small")
