"""The formats of an exported encoder. To add one, write its functions and add an entry here."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.errors import UserError, brief, unknown_name
from tf_simclr.export import keras_file, onnx_file, safetensors_file, saved_model, tflite_file
from tf_simclr.export.exportable import Exportable
from tf_simclr.stack import keras

_TOLERANCE = 1e-3  # In standard deviations of a dimension of h.
_WORTH_A_WARNING = 0.5
_LARGEST = np.finfo(np.float64).max
_LARGEST_BUFFER = 2**31  # ONNX and TFLite files are protocol buffers and flat buffers.


@dataclasses.dataclass(frozen=True)
class Format:
    """One form in which the encoder is written.

    Attributes:
      name: as in --export_formats, on the card and in the log.
      files: the files and folders that it makes in the export, by name.
      write: (exportable, folder on the local disk) -> facts for the card, a dictionary, or None.
        Raises any exception if the encoder cannot be written in this format. An OSError ends the
        whole export, because the disk failed; FileNotFoundError does not, because a missing program
        raises it.
      load: (exportable, folder) -> a function from images, float32 [n, H, W, C] in [0, 1], to h,
        float32 [n, D], from what was written. Raises as `write` does.
      tolerance: how far h may lie from the Keras model's, in standard deviations of a dimension;
        None: numbers are rounded on purpose, and the card says how far h lies.
      use: {program: lines of Python for the card}, which load the format from "this/folder" and
        compute h of `images`.
      required: whether every export has it.
      needs_config: whether it holds, or is loaded into, a model rebuilt from its config.
      needs_images: whether it needs representative images.
      packages: {module: how to install it} that it needs.
      why_not: model -> why it cannot be written; "" if it can, as far as is known beforehand.
    """

    name: str
    files: tuple[str, ...]
    write: Callable[[Exportable, str], dict[str, Any] | None]
    load: Callable[[Exportable, str], Callable[[np.ndarray], np.ndarray]]
    tolerance: float | None = _TOLERANCE
    use: dict[str, str] = dataclasses.field(default_factory=dict)
    required: bool = False
    needs_config: bool = False
    needs_images: bool = False
    packages: dict[str, str] = dataclasses.field(default_factory=dict)
    why_not: Callable[[keras.Model], str] = lambda model: ""


def _too_large(model: keras.Model) -> str:
    size = 4 * model.count_params()
    return f"its weights take {size / 2**30:.1f} GiB, more than 2." * (size >= _LARGEST_BUFFER)


FORMATS = [
    Format(
        "saved_model",
        ("saved_model.pb", "variables"),
        saved_model.write,
        saved_model.load,
        use=saved_model.USE,
        required=True,
    ),
    Format(
        "keras",
        (keras_file.KERAS_FILE,),
        keras_file.write,
        keras_file.load,
        use=keras_file.USE,
        needs_config=True,
    ),
    Format(
        "h5",
        (keras_file.H5_FILE,),
        keras_file.write_h5,
        keras_file.load_h5,
        use=keras_file.USE_H5,
        needs_config=True,
        why_not=keras_file.why_not_h5,
    ),
    Format(
        "onnx",
        onnx_file.FILES,
        onnx_file.write,
        onnx_file.load,
        use=onnx_file.USE,
        packages=dict.fromkeys(("tf2onnx", "onnxruntime"), "pip install 'tf_simclr[onnx]'"),
        why_not=_too_large,
    ),
    Format("tflite", **tflite_file.parts("encoder.tflite"), why_not=_too_large),
    Format(
        "tflite_float16",
        **tflite_file.parts("encoder_float16.tflite", tflite_file.float16),
        tolerance=None,
        why_not=_too_large,
    ),
    Format(
        "tflite_int8",
        **tflite_file.parts("encoder_int8.tflite", tflite_file.int8),
        tolerance=None,
        needs_images=True,
        why_not=_too_large,
    ),
    Format(
        "safetensors",
        (safetensors_file.FILE,),
        safetensors_file.write,
        safetensors_file.load,
        use=safetensors_file.USE,
        needs_config=True,
        packages={"safetensors": "pip install 'tf_simclr[safetensors]'"},
        why_not=safetensors_file.why_not,
    ),
]
DEFAULT = ("saved_model", "keras", "h5")


def formats_named(names: Sequence[str]) -> list[Format]:
    """The formats of these names and the required ones, in the order of `FORMATS`.

    Raises:
      UserError: a name is unknown, or a package that a format needs is not installed.
    """
    if isinstance(names, str):
        raise UserError(f"formats must be a list of names; received {names!r}.")
    known = {form.name: form for form in FORMATS}
    for name in names:
        if name not in known:
            raise unknown_name("export format", name, known)
        for package, install in known[name].packages.items():
            if importlib.util.find_spec(package) is None:
                raise UserError(f"the export format {name} needs {package}: {install}.")
    return [form for form in FORMATS if form.required or form.name in names]


def why_not(form: Format, model: keras.Model, config_problem: str) -> str:
    """Why a model cannot be written in a format, as far as is known beforehand; "" if it can.

    Args:
      form: the format.
      model: the encoder.
      config_problem: why it cannot be rebuilt from its config; "" if it can.
    """
    return (config_problem if form.needs_config else "") or form.why_not(model)


def write_formats(found: Exportable, forms: Sequence[Format], folder: str) -> dict[str, Any]:
    """Writes formats, loads each and compares it with the Keras model.

    Adds to `found.left_out` those that cannot be written, with the reason.

    Args:
      found: the encoder.
      forms: what to write.
      folder: where to write; it exists and is empty, on the local disk.

    Returns:
      What the card says: "formats", {name: its files}; "differences", {name: the largest one from
      the Keras model, in standard deviations of a dimension of h}; and the facts of each format.

    Raises:
      UserError: a required format cannot be written, or the disk failed.
    """
    facts: dict[str, Any] = {"formats": {}, "differences": {}}
    for form in forms:
        before = set(os.listdir(folder))
        try:
            said, difference = _written(form, found, folder)
        except Exception as error:  # User-defined layers, and converters, can fail in any way.
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise UserError(
                    f"{form.name} cannot be written to the folder for temporary files, {folder}: "
                    f"{error}. Make room there, or set TMPDIR to another folder."
                ) from error
            if form.required:
                raise UserError(
                    f"encoder {found.model.name!r} cannot be exported as {form.name}: "
                    f"{brief(error)}"
                ) from error
            found.left_out[form.name] = brief(error)
            for name in set(os.listdir(folder)) - before:
                path = os.path.join(folder, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        else:
            facts = {
                **facts,
                **said,
                "formats": {**facts["formats"], form.name: list(form.files)},
                "differences": {**facts["differences"], form.name: difference},
            }
    return facts


def _written(form: Format, found: Exportable, folder: str) -> tuple[dict, float]:
    """Writes and checks one format: its facts, and its difference from the Keras model."""
    reason = why_not(form, found.model, found.config_problem)
    if reason:
        raise UserError(reason)
    if form.needs_images and found.representative is None:
        raise UserError(found.images_problem)
    said = form.write(found, folder) or {}
    missing = sorted(set(form.files) - set(os.listdir(folder)))
    if missing:
        raise UserError(f"it did not write {', '.join(missing)}.")
    difference = _outside_strategy(lambda: found.probe.difference(form.load(found, folder)))
    allowed = _LARGEST if form.tolerance is None else found.probe.limit(form.tolerance)
    if not difference <= allowed:
        raise UserError(
            f"what was written gives other vectors: {difference:.3g} standard deviations of a "
            f"dimension away from the Keras model's, more than {allowed:.3g}."
        )
    if difference > _WORTH_A_WARNING:
        logging.warning(
            "The vectors of %s differ from the Keras model's by up to %.2g standard deviations of "
            "a dimension.",
            form.name,
            difference,
        )
    return said, float(f"{difference:.2g}")


def _outside_strategy(function: Callable[[], float]) -> float:
    """Calls a function outside the scope of any distribution strategy, in another thread.

    Inside the scope, TensorFlow would load variables as distributed ones. Scopes are per thread.
    """
    if not tf.distribute.has_strategy():
        return function()
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
