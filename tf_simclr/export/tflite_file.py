"""The formats encoder*.tflite, for LiteRT (formerly TensorFlow Lite) on phones and small devices.

All three take and give float32: with int8 the conversion of images to integers, and of h from
integers, is inside the model. Weights and activations of int8 are integers, whose scales come from
representative images.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tf_simclr.export.exportable import Exportable

_REPRESENTATIVE = 128


def write(found: Exportable, folder: str, file: str, name: str) -> None:
    """Writes FOLDER/FILE: "tflite" in float32, "tflite_float16", or "tflite_int8"."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    _SETTINGS[name](converter, found)
    with _without_deprecation_warning(), open(os.path.join(folder, file), "wb") as opened:
        opened.write(converter.convert())


def load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h, by the interpreter that TensorFlow contains."""
    with _without_deprecation_warning():
        interpreter = tf.lite.Interpreter(path)
    runner = interpreter.get_signature_runner("serving_default")
    return lambda images: runner(images=images)["embedding"]


@contextlib.contextmanager
def _without_deprecation_warning() -> Iterator[None]:
    """TensorFlow from 2.20 on recommends ai-edge-litert, which runs the same files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def use(file: str) -> dict[str, str]:
    """How to load it, for the card."""
    return {
        "LiteRT": f"""\
import tensorflow as tf

interpreter = tf.lite.Interpreter("this/folder/{file}")  # Or Interpreter of ai_edge_litert.
h = interpreter.get_signature_runner()(images=images)["embedding"]"""
    }


def _float16(converter, found: Exportable) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def _int8(converter, found: Exportable) -> None:
    images = found.representative[:_REPRESENTATIVE]
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        {"images": images[i : i + 1]} for i in range(len(images))
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


_SETTINGS = {
    "tflite": lambda converter, found: None,
    "tflite_float16": _float16,
    "tflite_int8": _int8,
}
