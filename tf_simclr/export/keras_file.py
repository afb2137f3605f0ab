"""The formats encoder.keras and encoder.h5: the encoder as a Keras model.

The Keras 2 that wrote a .keras file reads it; `checkpoints.load_encoder_from` reads those of both
stacks. Keras 3 also reads legacy HDF5 files, as long as it has every layer in them: it looks up
classes by name, among its own.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable

import h5py
import numpy as np
import tensorflow as tf

from tf_simclr.checkpoints.keras_files import load_keras
from tf_simclr.export.exportable import KERAS_MODULES, Exportable
from tf_simclr.export.probe import function_of
from tf_simclr.models.batch_norm import layers_of
from tf_simclr.models.keras_internals import is_functional
from tf_simclr.stack import keras

gfile = tf.io.gfile

KERAS_FILE, H5_FILE = "encoder.keras", "encoder.h5"
USE = {
    "Keras 2": f"""\
import tensorflow as tf

encoder = tf.keras.models.load_model("this/folder/{KERAS_FILE}")
h = encoder(images)"""
}
USE_H5 = {
    "Keras 3": f"""\
import keras

encoder = keras.models.load_model("this/folder/{H5_FILE}", compile=False)
h = encoder(images)"""
}

# Tried with Keras 3.15: it builds the same layer from the config that Keras 2 writes.
_IN_KERAS_3 = set(
    "Activation Add AveragePooling2D Average BatchNormalization Concatenate Conv2D Cropping2D "
    "Dense DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D GlobalMaxPooling2D "
    "InputLayer LayerNormalization LeakyReLU MaxPooling2D Maximum Multiply Permute PReLU ReLU "
    "Rescaling Reshape SeparableConv2D Softmax SpatialDropout2D Subtract UpSampling2D "
    "ZeroPadding2D".split()
)
# Settings that have no effect in these layers, but that another Keras refuses to read.
_WITHOUT_EFFECT = {
    "DepthwiseConv2D": ("groups",),
    "InputLayer": ("optional",),  # Which Keras 2.15 refuses too.
    "SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "SpatialDropout2D": ("noise_shape", "trainable"),
}
# hard_sigmoid, for one, is another function in Keras 3.
_ACTIVATIONS_IN_KERAS_3 = set(
    "elu exponential gelu linear relu relu6 selu sigmoid silu softmax softplus softsign swish "
    "tanh".split()
)
_OBJECTS_IN_KERAS_3 = set(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity L1 L1L2 L2 LecunNormal "
    "LecunUniform MaxNorm MinMaxNorm NonNeg Ones Orthogonal OrthogonalRegularizer RandomNormal "
    "RandomUniform TruncatedNormal UnitNorm VarianceScaling Zeros".split()
)
# A function that a user registered can have the name of one of Keras'.
_ACTIVATION_MODULES = ("keras.src.activations", "tf_keras.src.activations", "tensorflow.")


def write(found: Exportable, folder: str) -> None:
    """Writes FOLDER/encoder.keras."""
    found.model.save(os.path.join(folder, KERAS_FILE))


def load(found: Exportable, folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h, from the file; UserError if it cannot be loaded safely."""
    return function_of(load_keras(os.path.join(folder, KERAS_FILE)))


def write_h5(found: Exportable, folder: str) -> None:
    """Writes FOLDER/encoder.h5."""
    save_h5(found.model, os.path.join(folder, H5_FILE))


def save_h5(model: keras.Model, path: str) -> None:
    """Writes a functional model as an HDF5 file that Keras 2 and Keras 3 load."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # Keras warns that the model was not compiled.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # And that HDF5 is a legacy format.
            model.save(path, save_format="h5", include_optimizer=False)
    finally:
        logger.setLevel(level)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        _adapt(config["config"])
        file.attrs["model_config"] = json.dumps(config).encode()


def _adapt(config: dict) -> None:
    """Changes a config so that Keras 3 reads it too; Keras 2 reads it as before."""
    for layer in config["layers"]:
        for setting in _WITHOUT_EFFECT.get(layer["class_name"], ()):
            layer["config"].pop(setting, None)
    for ends in ("input_layers", "output_layers"):
        if ends in config:  # Otherwise the model takes and returns lists of one tensor in Keras 3.
            (config[ends],) = config[ends]


def load_h5(found: Exportable, folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h, from the file, which was just written here."""
    path = os.path.join(folder, H5_FILE)
    return function_of(keras.models.load_model(path, compile=False, safe_mode=True))


def why_not_h5(model: keras.Model) -> str:
    """Why Keras 3 could not load the model from HDF5; "" if it can."""
    if not is_functional(model):
        return "Keras 3 loads functional models only from HDF5."
    for layer in layers_of(model)[1:]:
        kind = type(layer)
        if isinstance(layer, keras.Model):
            return f"Keras 3 reads no models inside a model ({layer.name}) from HDF5."
        if kind.__name__ not in _IN_KERAS_3 or not kind.__module__.startswith(KERAS_MODULES):
            return f"Keras 3 does not have the layer {kind.__name__} ({layer.name})."
        if "/" in layer.name:
            return f'Keras 3 reads no layer with "/" in its name ({layer.name}).'
        function = getattr(layer, "activation", None)
        if function is not None and not function.__module__.startswith(_ACTIVATION_MODULES):
            return f"Keras 3 does not have activation={function.__name__} ({layer.name})."
        for name, value in layer.get_config().items():
            if not _is_in_keras_3(name, value):
                return f"Keras 3 does not have {name}={value} ({layer.name}), or has another."
    return ""


def _is_in_keras_3(name: str, value) -> bool:
    """Whether a setting of a layer of the allow-list means the same in Keras 3."""
    if name == "dtype":  # Of mixed precision, a dictionary; what is written is a copy in float32.
        return True
    if name == "activation":
        return isinstance(value, str) and value in _ACTIVATIONS_IN_KERAS_3
    if name == "axis":
        return np.size(value) == 1
    if isinstance(value, dict):  # Of an initializer, a regularizer or a constraint.
        return value.get("class_name") in _OBJECTS_IN_KERAS_3 and not value.get("registered_name")
    return True


def write_keras(model: keras.Model, path: str) -> None:
    """Writes a .keras file, local or of any scheme of `tf.io.gfile`, whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:  # Keras writes zip files to local disks only.
        local = os.path.join(scratch, "encoder.keras")
        model.save(local)
        gfile.copy(local, path + ".tmp", overwrite=True)
    gfile.rename(path + ".tmp", path, overwrite=True)
