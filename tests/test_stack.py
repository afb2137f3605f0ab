"""The door to Keras: Keras 2 of TensorFlow's own version, or what to install."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from tf_simclr import stack
from tf_simclr.errors import UserError


def with_tf_keras(monkeypatch, version):
    """Makes tf_keras one of that version, or makes its import fail with that error."""

    def imported(name):
        assert name == "tf_keras"
        if isinstance(version, Exception):
            raise version
        return types.SimpleNamespace(__version__=version)

    monkeypatch.setattr(importlib, "import_module", imported)


def test_keras_is_version_2_and_that_of_tf_keras_or_tensorflow():
    assert stack.keras.optimizers.legacy  # Keras 3 has none.
    assert stack.keras.layers.Layer is tf.keras.layers.Layer


@pytest.mark.parametrize(
    ("version", "tf_keras"), [("2.16.2", "2.16.0"), ("2.20.0", "2.20.1"), ("2.21.0", "2.21.0")]
)
def test_tf_keras_of_the_same_version_is_taken(version, tf_keras, monkeypatch):
    with_tf_keras(monkeypatch, tf_keras)
    assert stack.keras_for(version).__version__ == tf_keras


@pytest.mark.parametrize(
    ("version", "tf_keras", "message"),
    [
        ("2.14.1", "2.14.1", "TensorFlow 2.14.1 is installed, .* needs 2.15 or newer"),
        ("1.15.5", ModuleNotFoundError("x"), "TensorFlow 1.15.5 is installed, .* needs 2.15"),
        ("2.21.0", ModuleNotFoundError("No x"), "no tf-keras .*No x.* 'tf-keras~=2.21.0'"),
        ("2.21.0", AttributeError("no_op"), "no tf-keras .*no_op.* 'tf-keras~=2.21.0'"),
        ("2.19.1", "2.15.1", "with tf-keras 2.15.1, .*pip install 'tf-keras~=2.19.0'"),
        ("2.20.0", "2.2.0", "with tf-keras 2.2.0, .*pip install 'tf-keras~=2.20.0'"),
    ],
)
def test_what_does_not_fit_is_named_with_what_to_install(version, tf_keras, message, monkeypatch):
    with_tf_keras(monkeypatch, tf_keras)
    with pytest.raises(UserError, match=message):
        stack.keras_for(version)


def test_tensorflow_imported_first_works_too():
    """On the current stack `tf.keras` is Keras 3 then, and the package still uses Keras 2.

    Only keras-cv follows `tf.keras`, so its backbones are refused.
    """
    script = """
import tensorflow as tf
tf.keras
import numpy as np
import tf_simclr
from tf_simclr.stack import keras
assert (tf.keras.layers.Layer is keras.layers.Layer) == tf.__version__.startswith("2.15.")
model = tf_simclr.SimCLR(tf_simclr.build_encoder("resnet10", image_size=8, width_multiplier=0.125))
model.compile(tf_simclr.LARS(0.1))
source = tf_simclr.array_source(np.zeros([8, 8, 8, 3], np.uint8))
model.fit(tf_simclr.two_view_dataset(source, batch_size=8, image_size=8), steps_per_epoch=1)
assert isinstance(model, keras.Model)
try:
    tf_simclr.build_encoder("resnet18v2", image_size=32)
    assert tf.keras.layers.Layer is keras.layers.Layer
except tf_simclr.UserError as error:
    assert "Import tf_simclr first" in str(error) and "'resnet18v2' is from keras-cv" in str(error)
"""
    command = [sys.executable, "-c", script]
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
