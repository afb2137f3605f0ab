"""Exporting the encoder in several formats to one folder, and loading it from there.

An exported folder can be used without tf_simclr. `formats.FORMATS` lists what it can hold:
  saved_model.pb, variables/   a Reusable SavedModel (tensorflow.org/hub/reusable_saved_models):
      __call__(images float32 [N, H, W, C] in [0, 1], training=False) -> h float32 [N, D], with
      variables, trainable_variables and regularization_losses; serve and serve_training, images ->
      h, for Keras 3's TFSMLayer; and the signatures
      serving_default (images float32 in [0, 1]) -> embedding [N, D]
      uint8           (images uint8 [N, h, w, C], any size) -> embedding; crops and resizes itself
      endpoints       (images float32 in [0, 1]) -> output of every block group, by name;
                      functional models only
  encoder.keras                the same encoder as a Keras model, if Keras can load it safely
  encoder.h5                   the same for Keras 3, if it has all of its layers
  encoder.onnx, encoder_uint8.onnx, encoder*.tflite, encoder.safetensors    if they are asked for
  card.md, card.json           what it was trained on, what goes in, what comes out
"""

from tf_simclr.export.card import refresh_card
from tf_simclr.export.exporting import check_exportable, export_encoder
from tf_simclr.export.formats import formats_named
from tf_simclr.export.keras_file import write_keras
from tf_simclr.export.loading import load_encoder

__all__ = [
    "check_exportable",
    "export_encoder",
    "formats_named",
    "load_encoder",
    "refresh_card",
    "write_keras",
]
