"""Checks that a Keras config names only layers: Keras' safe mode alone lets code through.

In safe mode Keras 2.15 refuses the byte code of a lambda, but imports any module a config names and
calls any function in it, and reads an HDF5 file called .keras without safe mode.
"""

from __future__ import annotations

import json
import re
import zipfile
from typing import Any

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.stack import keras

_PACKAGES = ("keras", "tf_keras", "keras_cv", "tf_simclr")
_ACTIVATIONS = ("builtins", "keras.activations", "tf_keras.activations")
_VALUES = ("__tensor__", "__numpy__", "__bytes__")
_CLASS = re.compile(r"[A-Z]\w*")
# Layers that run, or load, what their config names.
_CALLERS = ("Lambda", "ClassMethod", "InstanceMethod", "TensorFlowOpLayer", "TFSMLayer")
# Settings of text layers that, given as a string, name a file to read.
_FILES = ("vocabulary", "idf_weights")
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda")  # x + 1 or tf.nn.relu(x) in a functional model.
# Operations that compute tensors from tensors; none reads a file or runs Python.
_SAFE_OPERATIONS = re.compile(
    r"(compat\.v1\.)?((__operators__|math|nn|image|linalg|signal)\.(?!\w*candidate_sampler)\w+"
    r"|argsort|batch_to_space|broadcast_to|cast|clip_by_norm|clip_by_value|concat|ensure_shape|eye"
    r"|expand_dims|fill|gather|gather_nd|identity|linspace|norm|one_hot|ones|ones_like|pad"
    r"|random\.(normal|uniform|truncated_normal|stateless_\w+)|range|rank|repeat|reshape|reverse"
    r"|roll|scatter_nd|shape|size|slice|sort|space_to_batch|split|squeeze|stack|stop_gradient"
    r"|strided_slice|tile|transpose|unstack|where|zeros|zeros_like)"
)


def check_keras_file(file: str) -> None:
    """Raises UserError unless a .keras file is a zip archive with a safe config and no .npz.

    Keras would unpickle what an .npz file holds; it writes weights as .h5.
    """
    with tf.io.gfile.GFile(file, "rb") as opened:
        if not zipfile.is_zipfile(opened):
            raise UserError("it is not a zip archive, as a .keras file must be.")
        with zipfile.ZipFile(opened) as archive:
            if any(name.endswith(".npz") for name in archive.namelist()):
                raise UserError("it holds an .npz file, which could run code when read.")
            check_config(json.loads(archive.read("config.json")))


def check_config(config: Any) -> None:
    """Checks what a config would create, before creating it.

    Args:
      config: what `serialize_keras_object` gave, read from a file.

    Raises:
      UserError: it names a function or class from outside Keras, keras-cv, this package or the
        registered custom objects, a layer that runs what its config names, or a file to read.
    """
    if isinstance(config, (list, tuple)):
        for part in config:
            check_config(part)
    elif isinstance(config, dict):
        if "class_name" in config and not _is_safe(config):
            raise UserError(
                f"its config asks for {config.get('module')}.{config['class_name']} "
                f"({str(config.get('config'))[:80]}), which could run any code or read a local "
                "file. Rebuild the model without Lambda layers and vocabulary files, or register "
                "the class in Keras before loading."
            )
        for part in config.values():
            check_config(part)


def _is_safe(config: dict) -> bool:
    name, inner = config["class_name"], config.get("config")
    registered = keras.saving.get_registered_object
    if name == "function":
        return isinstance(inner, str) and bool(registered(inner) or _is_activation(inner, config))
    if name in _VALUES:
        return True
    # A class, by its capital: functions found as "classes" would be called.
    if not isinstance(name, str) or not _CLASS.fullmatch(name) or name in _CALLERS:
        return False
    if name in _OPERATIONS:
        symbol = inner.get("function") if isinstance(inner, dict) else None
        return isinstance(symbol, str) and bool(_SAFE_OPERATIONS.fullmatch(symbol))
    if isinstance(inner, dict) and any(isinstance(inner.get(key), str) for key in _FILES):
        return False
    module = config.get("module") or "keras"
    if isinstance(module, str) and module.split(".")[0] in _PACKAGES:
        return True
    known = config.get("registered_name")
    return isinstance(known, str) and registered(known) is not None


def _is_activation(name: str, config: dict) -> bool:
    return config.get("module") in _ACTIVATIONS and callable(getattr(keras.activations, name, None))
