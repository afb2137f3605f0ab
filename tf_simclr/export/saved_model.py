"""The format SavedModel: the encoder for any TensorFlow program, with the Reusable interface."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_simclr import storage
from tf_simclr.augment import center_crop_resize
from tf_simclr.errors import UserError, brief
from tf_simclr.export.exportable import ENDPOINTS, Exportable
from tf_simclr.models.encoders import endpoint_tensors
from tf_simclr.models.inputs import to_float
from tf_simclr.stack import keras

NAME = "saved_model"
USE = """\
import tensorflow as tf, tensorflow_hub as hub
layer = hub.KerasLayer("this/folder", trainable=True)     # fine-tune; images float32 in [0, 1]
h = tf.saved_model.load("this/folder").signatures["uint8"](tf.constant(images))["embedding"]"""

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


def check(found: Exportable, folder: str) -> None:
    """Raises UserError if saved_model.pb is not whole or lacks a signature.

    It reads the file only. Loading the model as well would take longer than writing it, and cannot
    be done in folders whose name TensorFlow takes for a pattern.
    """
    content = storage.read_bytes(os.path.join(folder, "saved_model.pb"))
    try:
        graphs = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    except Exception as error:  # The class of the error depends on the version of protobuf.
        raise UserError(f"saved_model.pb is damaged: {brief(error)}") from error
    expected = set(_SIGNATURES) - set(found.left_out)
    missing = sorted(expected - {name for graph in graphs for name in graph.signature_def})
    if missing:
        raise UserError(f"saved_model.pb lacks the signatures {', '.join(missing)}.")


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
            floats = center_crop_resize(images, size, found.crop_proportion)
        return {"embedding": root.__call__(floats, training=False)}

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
