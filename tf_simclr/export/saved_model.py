"""Writing and loading the exported folder; its contents are listed in `tf_simclr.export`."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import tensorflow as tf

from tf_simclr.augment import center_crop_resize, eval_crop_proportion
from tf_simclr.errors import UserError
from tf_simclr.export import card as cards
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.models.encoders import endpoint_tensors

gfile = tf.io.gfile

_SIGNATURES = {
    "serving_default": "images float32 [N, H, W, C] in [0, 1] -> embedding [N, D]",
    "uint8": "images uint8 [N, any, any, C] in [0, 255] -> embedding [N, D]",
    "endpoints": "images float32 [N, H, W, C] in [0, 1] -> intermediate tensors by name",
}


def export_encoder(
    encoder: tf.keras.Model,
    directory,
    *,
    image_size: int | None = None,
    crop_proportion: float | None = None,
    card: dict[str, Any] | None = None,
) -> str:
    """Writes the encoder as a SavedModel and as a .keras file, with a card that describes it.

    What is exported is a copy in float32 with plain batch normalisation and every layer trainable,
    whatever precision, strategy or frozen layers the encoder has now. The folder appears whole: an
    earlier export there is replaced only when the new one is complete.

    Args:
      encoder: functional Keras model, images float32 [N, H, W, C] in [0, 1] to h [N, D].
      directory: the folder to make; an earlier export there is replaced, any other content is not.
      image_size: to what side the "uint8" signature resizes images; None: the size that the
        encoder's input fixes, or if it fixes none, images are taken as they are.
      crop_proportion: share of the shorter side that the "uint8" signature keeps, in (0, 1];
        None: 0.875, or all of it at 32 pixels and below.
      card: JSON-ready facts for the card, such as "trained_on", "method", "results".

    Returns:
      The folder.

    Raises:
      UserError: an argument is out of range, the folder holds something else or cannot be written;
        what was there stays.
    """
    directory = os.fspath(directory).rstrip("/")
    image_size = _checked_size(encoder, image_size)
    if crop_proportion is None:
        crop_proportion = eval_crop_proportion(image_size) if image_size else 1.0
    if not 0.0 < crop_proportion <= 1.0:
        raise UserError(f"crop_proportion must lie in (0, 1]; received {crop_proportion!r}.")
    plain = plain_copy(encoder)
    plain.trainable = True
    card = cards.card_of(plain, _SIGNATURES, image_size, crop_proportion, card or {})
    _check_replaceable(directory)
    new = directory + ".new"
    try:
        if gfile.exists(new):
            gfile.rmtree(new)
        _write_saved_model(plain, new, image_size, crop_proportion)
        write_keras(plain, os.path.join(new, "encoder.keras"))
        for name, content in (("card.json", card), ("card.md", cards.markdown(card))):
            with gfile.GFile(os.path.join(new, name), "w") as file:
                file.write(content)
        _put_in_place(new, directory)
    except (OSError, tf.errors.OpError) as error:
        if gfile.exists(new):
            gfile.rmtree(new)
        raise UserError(f"the encoder cannot be written to {directory}: {error}") from error
    return directory


def load_encoder(directory) -> tf.keras.layers.Layer:
    """Loads an exported encoder as a Keras layer, to be fine-tuned or frozen (`trainable`).

    The layer maps images float32 [N, H, W, C] in [0, 1] to h [N, D]. While it is trained, batch
    normalisation uses and moves batch statistics; with `layer.trainable = False` it does neither.

    Args:
      directory: what `export_encoder` made.

    Returns:
      A `tensorflow_hub.KerasLayer` with trainable=True.

    Raises:
      UserError: the folder is no exported encoder, or cannot be read.
    """
    directory = os.fspath(directory).rstrip("/")
    if not gfile.exists(os.path.join(directory, "saved_model.pb")):
        raise UserError(
            f"no exported encoder at {directory!r}: it has no saved_model.pb. Of a workdir, pass "
            "its folder encoder/."
        )
    import tensorflow_hub as hub  # Slow to import, needed here only.

    try:
        return hub.KerasLayer(directory, trainable=True, name="encoder")
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"the encoder in {directory} cannot be loaded: {error}") from error


class _ReusableEncoder(tf.train.Checkpoint):
    """What becomes the SavedModel; the Keras model itself is kept out of it, only traced.

    Attributes:
      variables, trainable_variables, regularization_losses: as the interface of Reusable
        SavedModels names them.
    """

    def __init__(self, model: tf.keras.Model):
        super().__init__()
        self.variables = list(model.variables)
        self.trainable_variables = list(model.trainable_variables)
        self.regularization_losses = []
        if model.losses:
            self.regularization_losses = [tf.function(lambda: tf.add_n(model.losses), [])]

        def call(images, training=False):
            return model(images, training=training)

        self.__call__ = tf.function(call)
        for training in (False, True):
            self.__call__.get_concrete_function(_images(model), training=training)


def _write_saved_model(model, directory: str, size: int | None, crop_proportion: float) -> None:
    root = _ReusableEncoder(model)
    endpoints = tf.keras.Model(model.input, endpoint_tensors(model))

    @tf.function(input_signature=[_images(model)])
    def serve(images):
        return {"embedding": root.__call__(images, training=False)}

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, _channels(model)], tf.uint8, "images")]
    )
    def serve_uint8(images):
        if size is None:
            pixels = tf.cast(images, tf.float32) * (1.0 / 255.0)
        else:
            pixels = center_crop_resize(images, size, crop_proportion)
        return {"embedding": root.__call__(pixels, training=False)}

    @tf.function(input_signature=[_images(model)])
    def serve_endpoints(images):
        return endpoints(images, training=False)

    tf.saved_model.save(
        root,
        directory,
        signatures=dict(zip(_SIGNATURES, (serve, serve_uint8, serve_endpoints))),
        # Without it, what has a gradient of its own (swish) could be run but not fine-tuned.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )


def write_keras(model: tf.keras.Model, path: str) -> None:
    """Writes a .keras file, local or of any scheme of `tf.io.gfile`, whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:  # Keras writes zip files to local disks only.
        local = os.path.join(scratch, "encoder.keras")
        model.save(local)
        gfile.copy(local, path + ".tmp", overwrite=True)
    gfile.rename(path + ".tmp", path, overwrite=True)


def _images(model: tf.keras.Model) -> tf.TensorSpec:
    return tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, "images")


def _channels(model: tf.keras.Model) -> int:
    return model.input_shape[-1]


def _checked_size(encoder: tf.keras.Model, image_size: int | None) -> int | None:
    """The side to resize to, once encoder and size are known to fit."""
    shapes = [getattr(encoder, side, None) for side in ("input_shape", "output_shape")]
    if not all(isinstance(shape, tuple) for shape in shapes) or list(map(len, shapes)) != [4, 2]:
        raise UserError(
            "encoder must be a functional Keras model from images [N, H, W, C] to vectors [N, D]; "
            f"received {encoder!r} with input and output shapes {shapes}."
        )
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size must be at least 1; received {image_size!r}.")
    fixed = {side for side in shapes[0][1:3] if side is not None}
    if fixed and image_size is None and len(fixed) == 1:
        return fixed.pop()
    if fixed - {image_size}:
        raise UserError(
            f"image_size={image_size!r} does not fit the encoder, whose input is {shapes[0]}."
        )
    return image_size


def _check_replaceable(directory: str) -> None:
    """Brings back what an interrupted replacement set aside; refuses to replace anything else."""
    old = directory + ".old"
    if gfile.exists(old) and not gfile.exists(directory):
        gfile.rename(old, directory)
    if not gfile.exists(directory):
        return
    is_export = all(
        gfile.exists(os.path.join(directory, name)) for name in ("saved_model.pb", "card.json")
    )
    if not is_export and (not gfile.isdir(directory) or gfile.listdir(directory)):
        raise UserError(
            f"{directory} is there and is no exported encoder; it will not be overwritten. Choose "
            "a new folder."
        )


def _put_in_place(new: str, directory: str) -> None:
    """Replaces a folder. Folders cannot be swapped in one move, so the old one is set aside."""
    old = directory + ".old"
    if gfile.exists(directory):
        if gfile.exists(old):
            gfile.rmtree(old)
        gfile.rename(directory, old)
    try:
        gfile.rename(new, directory)
    except tf.errors.OpError:
        if gfile.exists(old):
            gfile.rename(old, directory)
        raise
    if gfile.exists(old):
        gfile.rmtree(old)
