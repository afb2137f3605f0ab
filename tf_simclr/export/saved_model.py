"""The format SavedModel: the encoder for any TensorFlow program, with the Reusable interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError, brief
from tf_simclr.export.exportable import ENDPOINTS, Exportable
from tf_simclr.models.encoders import endpoint_tensors
from tf_simclr.stack import keras

USE = {
    "TensorFlow": """\
import tensorflow as tf

encoder = tf.saved_model.load("this/folder")
h = encoder.serve(images)
h = encoder.signatures["uint8"](tf.constant(pixels))["embedding"]""",
    "Keras 2": """\
import tensorflow_hub as hub

encoder = hub.KerasLayer("this/folder", trainable=True)
h = encoder(images)""",
    "Keras 3": """\
import keras

encoder = keras.layers.TFSMLayer("this/folder", call_training_endpoint="serve_training")
for weight in encoder.weights:  # Keras' optimisers refuse the ":0" of TensorFlow's names.
    weight._path = weight.path.replace(":0", "")
h = encoder(images)""",
}

_SIGNATURES = {
    "serving_default": "images float32 [N, H, W, C] in [0, 1] -> embedding [N, D]",
    "uint8": "images uint8 [N, any, any, C] in [0, 255] -> embedding [N, D]",
    ENDPOINTS: "images float32 [N, H, W, C] in [0, 1] -> intermediate tensors by name",
}


def write(found: Exportable, folder: str) -> dict[str, Any]:
    """Writes the SavedModel; returns its "endpoints" (names) and "signatures" for the card."""
    endpoints = _endpoints(found)
    _save(found, endpoints, folder)
    return {
        "endpoints": list(endpoints.output) if endpoints else [],
        "signatures": {n: use for n, use in _SIGNATURES.items() if n not in found.left_out},
    }


def load(found: Exportable, folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h, from the SavedModel.

    Raises:
      UserError: it is not whole, or lacks a signature.
    """
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as error:  # The class of the error depends on the version of protobuf.
        raise UserError(f"it is damaged: {brief(error)}") from error
    missing = sorted(set(_SIGNATURES) - set(found.left_out) - set(loaded.signatures))
    if missing:
        raise UserError(f"it lacks the signatures {', '.join(missing)}.")
    return lambda images: loaded.serve(tf.constant(images)).numpy()


def _endpoints(found: Exportable) -> keras.Model | None:
    """A model from images to the intermediate tensors by name."""
    if ENDPOINTS in found.left_out:
        return None
    try:
        return keras.Model(found.model.input, endpoint_tensors(found.model))
    except Exception as error:  # Graphs of the caller's own layers can fail in any way.
        found.left_out[ENDPOINTS] = brief(error)
        return None


def _save(found: Exportable, endpoints, folder: str) -> None:
    root, images = found.root, found.images
    pixels = tf.TensorSpec([None, None, None, images.shape[-1]], tf.uint8, "images")

    @tf.function(input_signature=[images])
    def serve(images):
        return {"embedding": root.__call__(images, training=False)}

    @tf.function(input_signature=[pixels])
    def serve_uint8(images):
        return {"embedding": found.embed_pixels(images)}

    @tf.function(input_signature=[images])
    def serve_endpoints(images):
        return endpoints(images, training=False)

    signatures = {"serving_default": serve, "uint8": serve_uint8}
    if endpoints is not None:
        signatures[ENDPOINTS] = serve_endpoints
    tf.saved_model.save(
        root,
        folder,
        signatures=signatures,
        # Without it, operations with a custom gradient (swish) could be run but not fine-tuned.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )
