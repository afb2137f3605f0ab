"""Loading an exported encoder as a Keras layer."""

from __future__ import annotations

import os

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.inputs import to_float
from tf_simclr.stack import keras

gfile = tf.io.gfile


def load_encoder(directory) -> keras.layers.Layer:
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
      UserError: the folder is not an exported encoder, or cannot be read; or, when the layer is
        called, the images are of another type.
    """
    directory = os.fspath(directory).rstrip("/")
    if not gfile.exists(os.path.join(directory, "saved_model.pb")):
        raise UserError(
            f"no exported encoder at {directory!r}: it has no saved_model.pb. For a workdir, "
            "pass its folder encoder/."
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
