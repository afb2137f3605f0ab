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
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.export.exportable import Exportable

Settings = Callable[[Any, Exportable], None]  # (converter, exportable): sets up the conversion.


def parts(file: str, settings: Settings | None = None) -> dict[str, Any]:
    """Files, functions and lines for the card of a format.

    Args:
      file: the name of the file.
      settings: `float16` or `int8`; None: float32.
    """
    return {
        "files": (file,),
        "write": lambda found, folder: _write(found, folder, file, settings),
        "load": lambda found, folder: _load(os.path.join(folder, file)),
        "use": {
            "LiteRT": f"""\
import os
import tensorflow as tf

# Or Interpreter of ai_edge_litert.
interpreter = tf.lite.Interpreter("this/folder/{file}", num_threads=os.cpu_count())
h = interpreter.get_signature_runner()(images=images)["embedding"]"""
        },
    }


def float16(converter, found: Exportable) -> None:
    """Weights are rounded to float16."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def int8(converter, found: Exportable) -> None:
    """Integers, with scales from all representative images."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        {"images": image[tf.newaxis]} for image in found.representative
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _write(found: Exportable, folder: str, file: str, settings: Settings | None) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    if settings is not None:
        settings(converter, found)
    with _without_deprecation_warning(), open(os.path.join(folder, file), "wb") as opened:
        opened.write(converter.convert())


def _load(path: str) -> Callable[[np.ndarray], np.ndarray]:
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
