"""Writing and loading the exported folder; its contents are listed in `tf_simclr.export`."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import tensorflow as tf

from tf_simclr.augment import center_crop_resize, eval_crop_proportion
from tf_simclr.checkpoints.safe_config import check_keras_file
from tf_simclr.errors import UserError, brief
from tf_simclr.export import card as cards
from tf_simclr.export.exportable import (
    ENDPOINTS,
    KERAS_FILE,
    Exportable,
    exportable,
    log_left_out,
)
from tf_simclr.models.encoders import endpoint_tensors
from tf_simclr.models.inputs import to_float

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

    What is exported has plain batch normalisation, every layer trainable and float32 in place of
    mixed precision, whatever strategy or frozen layers the encoder has now. The folder appears
    whole: an earlier export there is replaced only when the new one is complete.

    The .keras file is left out if `load_encoder_from` could not load it, as with Lambda layers and
    with classes that are not registered with Keras; the signature "endpoints" is left out if the
    encoder is not a functional model. The log and the card say so. Losses that layers compute from
    images (activity regularisation) are not exported; those of weights are.

    Args:
      encoder: Keras model, images float32 [N, H, W, C] in [0, 1] to h [N, D]: functional, or any
        other model or layer that was called once. `check_exportable` checks it before training.
      directory: the folder to make; an earlier export there is replaced, any other content is not.
      image_size: to what side the "uint8" signature resizes images; None: the size that the
        encoder's input fixes, or if it fixes none, images are taken as they are.
      crop_proportion: share of the shorter side that the "uint8" signature keeps, in (0, 1];
        None: 0.875, or all of it at 32 pixels and below.
      card: JSON-ready facts for the card, such as "trained_on", "method", "results".

    Returns:
      The folder.

    Raises:
      UserError: the encoder cannot be exported, an argument is out of range, the folder holds
        something else or cannot be written; what was there stays.
    """
    directory = os.fspath(directory).rstrip("/")
    if crop_proportion is not None and not 0.0 < crop_proportion <= 1.0:
        raise UserError(f"crop_proportion must lie in (0, 1]; received {crop_proportion!r}.")
    _check_replaceable(directory)
    new = directory + ".new"
    with exportable(encoder, image_size) as found:
        try:
            if gfile.exists(new):
                gfile.rmtree(new)
            _write(found, new, crop_proportion, card or {})
            _put_in_place(new, directory)
        except (OSError, tf.errors.OpError) as error:
            if gfile.exists(new):
                gfile.rmtree(new)
            raise UserError(f"the encoder cannot be written to {directory}: {error}") from error
    log_left_out(found.left_out)
    return directory


def load_encoder(directory) -> tf.keras.layers.Layer:
    """Loads an exported encoder as a Keras layer, to be fine-tuned or frozen (`trainable`).

    The layer maps images [N, H, W, C] to h float32 [N, D] and computes in float32 whatever the
    global precision: images of any float type in [0, 1], or uint8 in [0, 255]. While it is trained,
    batch normalisation uses and moves batch statistics; with `layer.trainable = False` it does
    neither.

    Args:
      directory: what `export_encoder` made.

    Returns:
      A `tensorflow_hub.KerasLayer` with trainable=True, built for the images of "serving_default".

    Raises:
      UserError: the folder is no exported encoder, or cannot be read; or, when the layer is called,
        the images are of another type.
    """
    directory = os.fspath(directory).rstrip("/")
    if not gfile.exists(os.path.join(directory, "saved_model.pb")):
        raise UserError(
            f"no exported encoder at {directory!r}: it has no saved_model.pb. Of a workdir, pass "
            "its folder encoder/."
        )
    import tensorflow_hub as hub  # Slow to import, needed here only.

    class KerasLayer(hub.KerasLayer):  # The name by which saved models ask for the class.
        def call(self, inputs, training=None):
            return super().call(to_float(inputs), training=training)

    try:
        layer = KerasLayer(directory, trainable=True, name="encoder", dtype="float32")
        serve = layer.resolved_object.signatures["serving_default"]
        layer.build(serve.structured_input_signature[1]["images"].shape)
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"the encoder in {directory} cannot be loaded: {error}") from error
    return layer


def _write(found: Exportable, directory: str, proportion: float | None, more: dict) -> None:
    """Writes every file of an export."""
    size = found.image_size
    if proportion is None:
        proportion = eval_crop_proportion(size) if size else 1.0
    endpoints = _endpoints(found)
    _write_saved_model(found, endpoints, directory, proportion)
    _write_keras_file(found, os.path.join(directory, KERAS_FILE))
    card = cards.card_of(
        found,
        {name: use for name, use in _SIGNATURES.items() if name not in found.left_out},
        list(endpoints.output) if endpoints else [],
        {"image_size": size or "any", "crop_proportion": proportion},
        more,
    )
    cards.write_card(directory, card)


def _endpoints(found: Exportable) -> tf.keras.Model | None:
    """A model from images to the intermediate tensors by name."""
    if ENDPOINTS in found.left_out:
        return None
    try:
        return tf.keras.Model(found.model.input, endpoint_tensors(found.model))
    except Exception as error:  # Graphs of the caller's own layers can fail in any way.
        found.left_out[ENDPOINTS] = brief(error)
        return None


def _write_saved_model(found: Exportable, endpoints, directory: str, proportion: float) -> None:
    root, images, size = found.root, found.images, found.image_size
    pixels = tf.TensorSpec([None, None, None, images.shape[-1]], tf.uint8, "images")

    @tf.function(input_signature=[images])
    def serve(images):
        return {"embedding": root.__call__(images, training=False)}

    @tf.function(input_signature=[pixels])
    def serve_uint8(images):
        if size is None:
            floats = to_float(images)
        else:
            floats = center_crop_resize(images, size, proportion)
        return {"embedding": root.__call__(floats, training=False)}

    @tf.function(input_signature=[images])
    def serve_endpoints(images):
        return endpoints(images, training=False)

    signatures = {"serving_default": serve, "uint8": serve_uint8}
    if endpoints is not None:
        signatures[ENDPOINTS] = serve_endpoints
    tf.saved_model.save(
        root,
        directory,
        signatures=signatures,
        # Without it, what has a gradient of its own (swish) could be run but not fine-tuned.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )


def _write_keras_file(found: Exportable, path: str) -> None:
    """Writes the encoder as a Keras model, if it comes back from the file as it is."""
    if KERAS_FILE in found.left_out:
        return
    try:
        write_keras(found.model, path)
        check_keras_file(path)
        loaded = tf.keras.models.load_model(path, compile=False, safe_mode=True)
        if found.is_same(lambda images: loaded(images, training=False)):
            return
        reason = "the model loaded from it gives other vectors."
    except (OSError, tf.errors.OpError):
        raise
    except Exception as error:  # Classes of the caller can fail to be written or read in any way.
        reason = brief(error)
    found.left_out[KERAS_FILE] = reason
    if gfile.exists(path):
        gfile.remove(path)


def write_keras(model: tf.keras.Model, path: str) -> None:
    """Writes a .keras file, local or of any scheme of `tf.io.gfile`, whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:  # Keras writes zip files to local disks only.
        local = os.path.join(scratch, "encoder.keras")
        model.save(local)
        gfile.copy(local, path + ".tmp", overwrite=True)
    gfile.rename(path + ".tmp", path, overwrite=True)


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
