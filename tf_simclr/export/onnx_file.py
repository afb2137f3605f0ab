"""The format ONNX, in two files.

encoder.onnx         images float32 [N, H, W, C] in [0, 1] -> embedding [N, D]
encoder_uint8.onnx   images uint8 [N, h, w, C] of any size -> embedding; crops and resizes itself,
                     as the SavedModel's signature "uint8" does

The converter, tf2onnx, does not support the bicubic resize, so the preprocessing of the second file
is written as ONNX nodes below.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.export.exportable import Exportable
from tf_simclr.export.probe import relative_difference

FILES = ("encoder.onnx", "encoder_uint8.onnx")
USE = {
    "ONNX Runtime": """\
import onnxruntime

session = onnxruntime.InferenceSession("this/folder/encoder.onnx")
(h,) = session.run(None, {"images": images})
session = onnxruntime.InferenceSession("this/folder/encoder_uint8.onnx")
(h,) = session.run(None, {"images": pixels})"""
}

_OPSET = 18  # The highest of tf2onnx.
_TOLERANCE = 1e-2  # Of uint8 images: two resizes round pixels differently.


def write(found: Exportable, folder: str) -> dict[str, int]:
    """Writes both files; returns the "onnx_opset" for the card."""
    import onnx  # An optional dependency.

    encoder = _converted(found)
    pixels = onnx.compose.merge_models(
        _preprocessing(found), encoder, io_map=[("scaled", "images")]
    )
    for model, name in zip((encoder, pixels), FILES):
        model.doc_string = f"Encoder {found.model.name}, written by tf_simclr."
        onnx.checker.check_model(model)
        onnx.save(model, os.path.join(folder, name))
    return {"onnx_opset": _OPSET}


def load(found: Exportable, folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h, from encoder.onnx.

    Raises:
      UserError: encoder_uint8.onnx does not give what the SavedModel's signature "uint8" does.
    """
    encoder, pixels = (_session(os.path.join(folder, name)) for name in FILES)
    images = found.probe.images * 255
    if found.image_size is not None:  # Larger and not square, so that they are cropped and resized.
        images = tf.image.resize(images, [2 * found.image_size + 1, 2 * found.image_size])
    images = np.asarray(images).round().astype(np.uint8)
    difference = relative_difference(found.embed_pixels(images), pixels(images))
    allowed = found.probe.limit(_TOLERANCE)
    if not difference <= allowed:
        raise UserError(
            f"{FILES[1]} gives other vectors: {difference:.3g} standard deviations of a dimension "
            f"away from the SavedModel's, more than {allowed:.3g}."
        )
    return encoder


def _session(path: str) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["embedding"], {"images": images})[0]


def _converted(found: Exportable):
    """The encoder as an ONNX model."""
    import tf2onnx

    @tf.function(input_signature=[found.images])
    def serve(images):
        return {"embedding": found.root.__call__(images, training=False)}

    logger = logging.getLogger("tf2onnx")
    logger.setLevel(logging.CRITICAL)  # It logs tracebacks of optimisations that it then skips.
    model, _ = tf2onnx.convert.from_function(serve, [found.images], opset=_OPSET)
    unknown = {node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if unknown:
        raise UserError(f"ONNX does not have the operations {', '.join(sorted(unknown))}.")
    return model


def _preprocessing(found: Exportable):
    """An ONNX model from uint8 images to what the encoder takes."""
    from onnx import parser

    channels, size = found.images.shape[-1], found.image_size
    text = _SCALE if size is None else _CROP_AND_RESIZE
    return parser.parse_model(
        text.format(opset=_OPSET, c=channels, s=size, proportion=found.crop_proportion)
    )


# In ONNX's text form. It computes what `augment.center_crop_resize` does. Each channel is resized
# as an image of its own: otherwise ONNX Runtime moves the first Transpose behind the Resize, whose
# cubic mode needs rows and columns to be the last axes.
_SCALE = """
<ir_version: 8, opset_import: ["" : {opset}]>
preprocessing (uint8[n, h, w, {c}] images) => (float[n, h, w, {c}] scaled)
<float scale = {{0.00392156862745098}}>
{{
  floats = Cast <to = 1> (images)
  scaled = Mul (floats, scale)
}}
"""
_CROP_AND_RESIZE = """
<ir_version: 8, opset_import: ["" : {opset}]>
preprocessing (uint8[n, h, w, {c}] images) => (float[n, {s}, {s}, {c}] scaled)
<
  float scale = {{0.00392156862745098}}, float proportion = {{{proportion}}},
  float low = {{0.0}}, float high = {{1.0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
  int64[2] axes = {{1, 2}}, int64[2] planes = {{-1, 1}}, int64[2] sizes = {{{s}, {s}}},
  int64[4] stacked = {{-1, {c}, {s}, {s}}}
>
{{
  sides = Shape <start = 1, end = 3> (images)
  shorter = ReduceMin <keepdims = 1> (sides)
  shorter_float = Cast <to = 1> (shorter)
  kept = Mul (shorter_float, proportion)
  rounded = Round (kept)
  rounded_int = Cast <to = 7> (rounded)
  side = Max (rounded_int, one)
  spare = Sub (sides, side)
  spare_up = Add (spare, one)
  start = Div (spare_up, two)
  end = Add (start, side)
  pixels = Slice (images, start, end, axes)
  floats = Cast <to = 1> (pixels)
  unit = Mul (floats, scale)
  channels_first = Transpose <perm = [0, 3, 1, 2]> (unit)
  planes_shape = Concat <axis = 0> (planes, side, side)
  each_plane = Reshape (channels_first, planes_shape)
  resized = Resize <mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1, axes = [2, 3]> (
    each_plane, , , sizes)
  clipped_planes = Clip (resized, low, high)
  clipped = Reshape (clipped_planes, stacked)
  scaled = Transpose <perm = [0, 2, 3, 1]> (clipped)
}}
"""
