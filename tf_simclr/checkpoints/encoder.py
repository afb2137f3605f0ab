"""Loads an encoder from a workdir, a checkpoint, an export, a .keras or an .h5 file."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from tf_simclr.checkpoints.files import MANIFEST
from tf_simclr.checkpoints.keras_files import from_config, load_h5, load_keras
from tf_simclr.checkpoints.restoring import newest_whole, parts_in, restore
from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.stack import keras

gfile = tf.io.gfile

_LOADERS = {".keras": load_keras, ".h5": load_h5}  # By the ending of the file.


def load_encoder_from(path) -> keras.Model:
    """Loads an encoder from a workdir, a checkpoint, an export, a .keras or an .h5 file.

    Args:
      path: a workdir (its newest checkpoint, else its export), a checkpoints folder, a checkpoint,
        an exported encoder's folder, a .keras file, or an .h5 file that Keras 2 wrote.

    Returns:
      The encoder: float32, plain batch normalisation, every layer trainable.

    Raises:
      UserError: there is no encoder (the message lists what was tried), or it cannot be read.
    """
    try:
        encoder = plain_copy(_find_encoder(os.fspath(path)))
    except tf.errors.OpError as error:  # Storage is down, or the scheme unknown.
        raise UserError(f"the encoder at {path!r} cannot be read: {error.message}") from error
    encoder.trainable = True
    return encoder


def start_from(given: keras.Model, encoder: keras.Model, path: str) -> None:
    """Copies the weights of another encoder of the same architecture.

    Args:
      given: the other encoder.
      encoder: gets its weights.
      path: where `given` came from, for the message.

    Raises:
      UserError: a weight has another shape.
    """
    shapes, own = ([w.shape.as_list() for w in e.weights] for e in (given, encoder))
    if shapes != own:
        pairs = enumerate(zip(shapes, own))
        differing = next((i for i, (there, here) in pairs if there != here), None)
        at = ""
        if differing is not None:
            at = (
                f"; the first that differs, {encoder.weights[differing].name}, has shape "
                f"{shapes[differing]} there and {own[differing]} here"
            )
        raise UserError(
            f"the encoder of --init_from={path} does not fit: it has {len(shapes)} weights, this "
            f"one {len(own)}{at}. Use its --encoder, --width_multiplier and --channels."
        )
    encoder.set_weights(given.get_weights())


def _find_encoder(path: str) -> keras.Model:
    if gfile.exists(path.removesuffix(".index") + ".index"):
        return _from_checkpoint(path.removesuffix(".index"))
    for directory in (os.path.join(path, "checkpoints"), path):
        step, encoder = newest_whole(directory, _from_checkpoint)
        if step is not None:
            return encoder
    files = [path] if path.endswith(tuple(_LOADERS)) else []
    files += [os.path.join(path, name) for name in ("encoder.keras", "encoder/encoder.keras")]
    for file in files:
        if gfile.exists(file) and not gfile.isdir(file):
            try:
                return _LOADERS[os.path.splitext(file)[1]](file)
            except Exception as error:  # A broken file can fail in any way.
                raise UserError(f"{file} cannot be loaded: {error}") from error
    for folder in (path, os.path.join(path, "encoder")):
        if gfile.exists(os.path.join(folder, "saved_model.pb")):
            raise UserError(
                f"{folder} holds a SavedModel but no encoder.keras (--export_formats left it out, "
                "or card.md says why), and this needs the Keras model. Pass a workdir or a "
                "checkpoint of the run; in Python, tf_simclr.load_encoder loads the SavedModel as "
                "a layer."
            )
    raise UserError(
        f"no encoder at {path!r}: it is not a checkpoint ({path}.index), a .keras or .h5 file, or "
        "a folder with checkpoints/ckpt-<step>.index, ckpt-<step>.index, encoder.keras or "
        "encoder/encoder.keras."
    )


def _from_checkpoint(path: str) -> keras.Model:
    file = os.path.join(os.path.dirname(path), MANIFEST)
    try:
        with gfile.GFile(file, "r") as opened:
            config = json.loads(opened.read())["encoder"]
        encoder = from_config(config)
        if not isinstance(encoder, keras.Model):
            raise TypeError(f"it holds {encoder!r}, which is not a Keras model")
    except Exception as error:  # A missing, broken or foreign manifest can fail in any way.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the encoder cannot be rebuilt from {file}: {reason}") from error
    others = parts_in(path) - {"encoder"}
    restore(path, ignore=others, encoder=encoder)
    return encoder
