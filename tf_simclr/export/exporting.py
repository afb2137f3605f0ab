"""Exporting: one prepared encoder, the wanted formats, one folder that appears whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.errors import UserError
from tf_simclr.export.card import card_files, card_of
from tf_simclr.export.exportable import (
    checked_shapes,
    exportable,
    has_known_layers_only,
    probe_shape,
)
from tf_simclr.export.folder import check_replaceable, replacing
from tf_simclr.export.formats import DEFAULT, Format, formats_named, why_not, write_formats
from tf_simclr.models.encoder_interface import trace_on_images
from tf_simclr.stack import keras

gfile = tf.io.gfile


def check_exportable(
    encoder: keras.Model, image_size: int | None = None, formats: Sequence[str] = DEFAULT
) -> dict[str, str]:
    """Checks before training that `export_encoder` will work afterwards; takes seconds.

    What only a conversion can tell, such as an operation that ONNX does not have, is not checked.

    Args:
      encoder: as it will be trained, with its weights, strategy and precision.
      image_size: side of the images it will be trained on; None: what its input fixes, else 224.
      formats: as for `export_encoder`.

    Returns:
      What an export would leave out, with the reason: formats of the default ones, or the signature
      "endpoints". It is logged too.

    Raises:
      UserError: the encoder could not be exported, or not in a format that is asked for, with the
        reason.
    """
    forms = formats_named(formats)
    if has_known_layers_only(encoder):
        taken, _, image_size = checked_shapes(encoder, image_size)
        trace_on_images(encoder, probe_shape(taken, image_size))
        left_out, config_problem = {}, ""
    else:
        with exportable(encoder, image_size) as found:
            left_out, config_problem = found.left_out, found.config_problem
    for form in forms:
        reason = why_not(form, encoder, config_problem)
        if reason:
            left_out[form.name] = reason
    refused = _refused(left_out, forms, formats)
    if refused:
        raise UserError(f"encoder {encoder.name!r} cannot be exported as {refused}")
    _log_left_out(left_out)
    return left_out


def export_encoder(
    encoder: keras.Model,
    directory,
    *,
    image_size: int | None = None,
    crop_proportion: float | None = None,
    formats: Sequence[str] = DEFAULT,
    representative_images: np.ndarray | Callable[[], np.ndarray] | None = None,
    card: dict[str, Any] | None = None,
) -> str:
    """Writes the encoder in several formats, each compared with it, and a card that describes it.

    What is exported has plain batch normalisation, every layer trainable and float32 in place of
    mixed precision, whatever strategy or frozen layers the encoder has now. The folder appears
    whole: an earlier export there is replaced only when the new one is complete.

    Of the default formats, those that the encoder does not allow are left out, as log and card say:
    "keras" for Lambda layers and classes that are not registered with Keras, "h5" also for layers
    that Keras 3 does not have. The signature "endpoints" is left out if the encoder is not a
    functional model. Losses that layers compute from images (activity regularisation) are not
    exported; those of weights are.

    Args:
      encoder: Keras model, images float32 [N, H, W, C] in [0, 1] to h [N, D]: functional, or any
        other model or layer that was called once. `check_exportable` checks it before training.
      directory: the folder to make; an earlier export there is replaced, any other content is not.
      image_size: to what side uint8 images are resized inside; None: the size that the encoder's
        input fixes, or if it fixes none, images are taken as they are.
      crop_proportion: share of the shorter side of uint8 images that is kept, in (0, 1]; None:
        0.875, or all of it at 32 pixels and below.
      formats: names of `FORMATS`; "saved_model" is always written.
      representative_images: [n, H, W, C], float in [0, 1] or uint8, such as the encoder will get:
        "tflite_int8" needs about 100 of them; what is written is compared on the first 16. Or a
        function that returns them, which is called if a format needs them. Without images, what is
        written is compared on synthetic ones.
      card: JSON-ready facts for the card, such as "trained_on", "method", "results".

    Returns:
      The folder.

    Raises:
      UserError: the encoder cannot be exported, an argument is out of range, the folder holds
        something else or cannot be written: what was there stays. Or formats other than the
        default ones were asked for and one of them failed: the others have been written.
    """
    directory = os.fspath(directory).rstrip("/")
    forms = formats_named(formats)
    if crop_proportion is not None and not 0.0 < crop_proportion <= 1.0:
        raise UserError(f"crop_proportion must lie in (0, 1]; received {crop_proportion!r}.")
    check_replaceable(directory)
    images = _images(representative_images, forms)
    with exportable(encoder, image_size, crop_proportion, **images) as found:
        try:
            before = set(gfile.listdir(directory)) if gfile.exists(directory) else set()
            with replacing(directory) as new, tempfile.TemporaryDirectory() as scratch:
                # Most libraries write to local disks only, and TensorFlow does not load from
                # folders whose name it takes for a pattern.
                facts = write_formats(found, forms, scratch)
                _copy(scratch, new)
                for name, content in card_files(card_of(found, facts, card or {})).items():
                    # The folder is replaced whole, so its files need not be.
                    with gfile.GFile(os.path.join(new, name), "w") as file:
                        file.write(content)
            gone = before - set(gfile.listdir(directory))
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"the encoder cannot be written to {directory}: {error}") from error
    if gone:
        logging.info("No longer in %s: %s.", directory, ", ".join(sorted(gone)))
    _log_left_out(found.left_out)
    refused = _refused(found.left_out, forms, formats)
    if refused:
        raise UserError(f"the encoder is in {directory}, but without {refused}")
    return directory


def _images(given, forms: Sequence[Format]) -> dict[str, Any]:
    """The representative images, or why there are none, as arguments of `exportable`."""
    if not callable(given):
        return {"representative": given}
    try:
        return {"representative": given() if any(f.needs_images for f in forms) else None}
    except UserError as error:
        return {"images_problem": f"images to measure it on cannot be read: {error}"}


def _refused(left_out: dict[str, str], forms: Sequence[Format], asked: Sequence[str]) -> str:
    """The formats that were asked for and are left out, with the reasons; "" if there are none."""
    if set(asked) == set(DEFAULT):
        forms = [form for form in forms if form.required]
    return " ".join(f"{f.name}: {left_out[f.name]}" for f in forms if f.name in left_out)


def _log_left_out(left_out: dict[str, str]) -> None:
    for name, reason in left_out.items():
        logging.info("The exported encoder has no %s: %s", name, reason)


def _copy(source: str, target: str) -> None:
    """Copies a local folder's content to a folder of any scheme of `tf.io.gfile`."""
    gfile.makedirs(target)
    for entry in os.scandir(source):
        there = os.path.join(target, entry.name)
        if entry.is_dir():
            _copy(entry.path, there)
        else:
            gfile.copy(entry.path, there, overwrite=True)
