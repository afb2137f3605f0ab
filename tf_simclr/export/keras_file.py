"""The format encoder.keras: the encoder as a Keras model, if Keras can load it back safely."""

from __future__ import annotations

import os
import tempfile

import tensorflow as tf

from tf_simclr.checkpoints.keras_files import load_keras
from tf_simclr.errors import UserError
from tf_simclr.export.exportable import KERAS_FILE, Exportable
from tf_simclr.stack import keras

gfile = tf.io.gfile


def write(found: Exportable, folder: str) -> None:
    """Writes FOLDER/encoder.keras."""
    write_keras(found.model, os.path.join(folder, KERAS_FILE))


def check(found: Exportable, folder: str) -> None:
    """Raises UserError if the file cannot be loaded safely or gives other vectors."""
    path = os.path.join(folder, KERAS_FILE)
    loaded = load_keras(path)
    if not found.is_same(lambda images: loaded(images, training=False)):
        raise UserError("the model loaded from it gives other vectors.")


def write_keras(model: keras.Model, path: str) -> None:
    """Writes a .keras file, local or of any scheme of `tf.io.gfile`, whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:  # Keras writes zip files to local disks only.
        local = os.path.join(scratch, "encoder.keras")
        model.save(local)
        gfile.copy(local, path + ".tmp", overwrite=True)
    gfile.rename(path + ".tmp", path, overwrite=True)
