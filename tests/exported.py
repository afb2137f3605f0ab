"""A small encoder to export, and the contents of a folder."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(0)


def small_encoder(channels=3, side=None, name="small", **conv):
    """An encoder with batch normalisation, without dropout, and with swish (a custom gradient)."""
    layers = tf.keras.layers
    inputs = tf.keras.Input([side, side, channels])
    x = layers.Conv2D(4, 3, name="stem", **conv)(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Activation("swish", name="block_group1")(x)
    h = layers.GlobalAveragePooling2D(name="final_avg_pool", dtype="float32")(x)
    encoder = tf.keras.Model(inputs, h, name=name)
    bn = encoder.get_layer("bn")  # Statistics that differ from a new layer's.
    bn.set_weights([RNG.random(4) + 0.5 for _ in range(4)])
    return encoder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
