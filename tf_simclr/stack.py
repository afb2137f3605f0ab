"""The door to Keras: every module of this package takes `keras` from here.

It is Keras 2 on both stacks: TensorFlow 2.15 contains it; with later versions of TensorFlow, whose
`tf.keras` is Keras 3, it is the package tf_keras. If this package is imported before TensorFlow,
`tf.keras` is Keras 2 too.
"""

from __future__ import annotations

import importlib

import tensorflow as tf

if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 16):
    keras = tf.keras
else:
    keras = importlib.import_module("tf_keras")
