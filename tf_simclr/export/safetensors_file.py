"""The format encoder.safetensors: the weights alone, for PyTorch, JAX and others.

A tensor is named after its Keras variable, <layer>.<weight>, such as "initial_conv.kernel" or
"stem_norm.moving_mean"; nested layers add their names before it. Kernels keep Keras' order of axes:
[height, width, in, out] of a convolution, [in, out] of a dense layer.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable

import numpy as np

from tf_simclr.errors import UserError
from tf_simclr.export.exportable import Exportable
from tf_simclr.export.probe import function_of
from tf_simclr.models.batch_norm import plain_copy, plain_form
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
    from safetensors.numpy import save_file  # An optional dependency.

    tensors = {
        _name(weight): np.ascontiguousarray(weight.numpy()) for weight in found.model.weights
    }
    about = {
        "encoder": found.model.name,
        "format": "np",
        "input": "[0, 1], NHWC",
        "keras_config": found.model.to_json(),  # Shows the layers that have no weights.
    }
    save_file(tensors, os.path.join(folder, FILE), metadata=about)


def load(found: Exportable, folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h: a copy of the model with the weights of the file."""
    from safetensors.numpy import load_file

    copy = plain_copy(found.model)
    arrays = load_file(os.path.join(folder, FILE))
    with plain_form(copy):  # Its weights then have the order of the model's.
        for variable, named in zip(copy.weights, found.model.weights):
            variable.assign(arrays.pop(_name(named)))
    if arrays:
        raise UserError(f"its tensor {next(iter(arrays))} is not a weight of the encoder.")
    return function_of(copy)


def why_not(model: keras.Model) -> str:
    """Why the weights cannot be named; "" if they can."""
    counts = collections.Counter(map(_name, model.weights))
    twice = [name for name, count in counts.items() if count > 1]
    return f"several weights are called {twice[0]}." if twice else ""


def _name(variable) -> str:
    return variable.name.split(":")[0].replace("/", ".")
