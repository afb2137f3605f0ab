"""The format encoder.safetensors: the weights alone, for PyTorch, JAX and others.

A tensor is called after its Keras variable, <layer>.<weight>, such as "initial_conv.kernel" or
"stem_norm.moving_mean"; nested layers add their names before it. Kernels keep Keras' order of axes:
[height, width, in, out] of a convolution, [in, out] of a dense layer.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_simclr.export.exportable import Exportable
from tf_simclr.export.probe import function_of
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.stack import keras

FILE = "encoder.safetensors"
USE = {
    "PyTorch": f"""\
import torch
from pytorch_encoder import load_encoder  # examples/pytorch_encoder.py: for the ResNets

encoder = load_encoder("this/folder/{FILE}")
h = encoder(torch.from_numpy(images).permute(0, 3, 1, 2))""",
    "NumPy": f"""\
from safetensors.numpy import load_file

weights = load_file("this/folder/{FILE}")  # {{"<layer>.<weight>": array}}""",
}


def write(found: Exportable, folder: str) -> None:
    """Writes FOLDER/encoder.safetensors."""
    from safetensors.numpy import save_file  # Not everyone has it.

    tensors = {
        name: np.ascontiguousarray(variable.numpy())
        for name, variable in _named(found.model).items()
    }
    about = {
        "encoder": found.model.name,
        "format": "np",
        "input": "[0, 1], NHWC",
        "keras_config": found.model.to_json(),  # Layers without weights are found here only.
    }
    save_file(tensors, os.path.join(folder, FILE), metadata=about)


def load(found: Exportable, folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h: a copy of the model with the weights of the file."""
    from safetensors.numpy import load_file

    copy = plain_copy(found.model)
    for variable in copy.weights:  # Nothing may remain of what was copied.
        variable.assign(tf.fill(variable.shape, variable.dtype.min))
    variables = _named(copy)
    for name, array in load_file(os.path.join(folder, FILE)).items():
        variables[name].assign(array)
    return function_of(copy)


def why_not(model: keras.Model) -> str:
    """Why the weights cannot be told apart by name; "" if they can."""
    counts = collections.Counter(map(_name, model.weights))
    twice = [name for name, count in counts.items() if count > 1]
    return f"several weights are called {twice[0]}." if twice else ""


def _named(model: keras.Model) -> dict:
    return {_name(variable): variable for variable in model.weights}


def _name(variable) -> str:
    return variable.name.split(":")[0].replace("/", ".")
