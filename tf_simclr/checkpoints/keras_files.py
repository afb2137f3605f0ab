"""Reads Keras configs, .keras and .h5 files of either stack, once they are known to be safe.

Keras writes the names of its modules into configs, and they differ between TensorFlow's own Keras 2
("keras.") and the package tf_keras ("tf_keras."). Newer versions also write settings that older
ones do not know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from typing import Any

import h5py
import tensorflow as tf

from tf_simclr.checkpoints.safe_config import check_config, check_keras_file
from tf_simclr.stack import keras

_CONFIG = "config.json"
_H5_NEEDED = ("model_config", "keras_version", "backend")
_HERE = keras.layers.Layer.__module__.partition(".")[0] + "."
_MODULE = re.compile(r"^(tf_)?keras\.(?=src\.)")
# Settings that tf_keras 2.21 writes and Keras 2.15 does not know, with their default values.
_NEW = {"InputLayer": {"optional": False}}


def load_keras(file: str) -> keras.Model:
    """The model of a .keras file, not compiled.

    Raises:
      UserError: the file is not safe to load.
      Exception: of any kind, if it is damaged or not a model.
    """
    check_keras_file(file)
    with tf.io.gfile.GFile(file, "rb") as opened, zipfile.ZipFile(opened) as archive:
        written = json.loads(archive.read(_CONFIG))
        config = for_this_stack(written)
        if config == written:
            return keras.models.load_model(file, compile=False, safe_mode=True)
        with tempfile.TemporaryDirectory() as scratch:
            local = os.path.join(scratch, "model.keras")
            with zipfile.ZipFile(local, "w") as copy:
                copy.writestr(_CONFIG, json.dumps(config))
                for name in set(archive.namelist()) - {_CONFIG}:
                    with archive.open(name) as part, copy.open(name, "w", force_zip64=True) as to:
                        shutil.copyfileobj(part, to)
            return keras.models.load_model(local, compile=False, safe_mode=True)


def load_h5(file: str) -> keras.Model:
    """The model of an HDF5 file that Keras 2 wrote, not compiled.

    Raises:
      UserError: the file is not safe to load.
      Exception: of any kind, if it is damaged or not a model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, "model.h5")
        tf.io.gfile.copy(file, local)
        with h5py.File(local, "r+") as opened:
            config = json.loads(opened.attrs["model_config"])
            check_config(config)
            for name in set(opened.attrs) - set(_H5_NEEDED):  # What a training needs.
                del opened.attrs[name]
            opened.attrs["model_config"] = json.dumps(for_this_stack(config)).encode()
        return keras.models.load_model(local, compile=False, safe_mode=True)


def from_config(config: dict[str, Any]) -> Any:
    """The object of a config, as `serialize_keras_object` gives it.

    Raises:
      UserError: the config is not safe to use.
      Exception: of any kind, if it is damaged.
    """
    check_config(config)
    return keras.saving.deserialize_keras_object(for_this_stack(config), safe_mode=True)


def for_this_stack(config: Any) -> Any:
    """The config with the modules and settings of the Keras that is installed here."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(for_this_stack, config))
    if not isinstance(config, dict):
        return config
    config = {name: for_this_stack(value) for name, value in config.items()}
    if isinstance(config.get("module"), str) and "class_name" in config:
        config["module"] = _MODULE.sub(_HERE, config["module"])
        new = _NEW.get(config["class_name"], {})
        if new and isinstance(config.get("config"), dict):
            config["config"] = {
                name: value
                for name, value in config["config"].items()
                if name not in new or value != new[name]
            }
    return config
