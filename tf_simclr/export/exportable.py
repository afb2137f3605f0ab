"""An encoder made ready for export: in plain form, traced, and with what it lacks.

Most encoders are exported as a copy made from their config. An encoder that cannot be rebuilt, such
as one with a Lambda layer, is traced as it is; formats that hold a config are then left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tf_simclr.augment import center_crop_resize, eval_crop_proportion
from tf_simclr.checkpoints.safe_config import check_config
from tf_simclr.errors import UserError, brief
from tf_simclr.export.probe import Probe
from tf_simclr.export.reusable import ReusableEncoder
from tf_simclr.models.batch_norm import layers_of, plain_copy, plain_form
from tf_simclr.models.encoder_interface import encoder_shapes, trace_on_images
from tf_simclr.models.inputs import to_float
from tf_simclr.models.keras_internals import is_functional
from tf_simclr.stack import keras

ENDPOINTS = "endpoints"

_PROBE_SIDE = 224  # Where neither the encoder nor the caller fixes a size.
# Where Keras 2 defines its layers, on either stack.
KERAS_MODULES = tuple(
    f"{name}.src.{part}." for name in ("keras", "tf_keras") for part in ("layers", "engine")
)
_KNOWN_MODULES = (*KERAS_MODULES, "keras_cv.")
# The largest difference between two h, relative to the largest entry of h. Kernels differ slightly;
# half precision rounds at every layer, so that there only a grossly different copy is noticed.
_TOLERANCE, _MIXED_TOLERANCE = 1e-2, 0.5


@dataclasses.dataclass(frozen=True)
class Exportable:
    """An encoder ready to be written.

    Attributes:
      model: float32, plain batch normalisation, every layer trainable: a copy of the encoder, or
        the encoder itself.
      root: the model, traced.
      images: the spec of what `root` takes.
      image_size: side that images are to be resized to; None: any.
      crop_proportion: share of the shorter side that is kept when images are resized, in (0, 1].
      embedding_dim: D of h.
      probe_shape: shape of images to try the model on.
      config_problem: why the model cannot be rebuilt from its config; "" if it can.
      representative: float32 [n, H, W, C], images such as it was trained on; None: there are none.
      images_problem: why there are none.
      left_out: what cannot be exported, with the reason: names of formats, or `ENDPOINTS`. Writing
        adds to it.
    """

    model: keras.Model
    root: ReusableEncoder
    images: tf.TensorSpec
    image_size: int | None
    crop_proportion: float
    embedding_dim: int
    probe_shape: list[int]
    config_problem: str
    representative: np.ndarray | None
    images_problem: str
    left_out: dict[str, str]

    @functools.cached_property
    def probe(self) -> Probe:
        """The model's h of a few images, with which what is written is compared."""
        return Probe(self.model, self.probe_shape[1:], self.representative)

    def embed_pixels(self, images) -> tf.Tensor:
        """h, float32 [N, D], of uint8 images [N, h, w, C] of any size, cropped and resized."""
        if self.image_size is None:
            floats = to_float(images)
        else:
            floats = center_crop_resize(images, self.image_size, self.crop_proportion)
        return self.root.__call__(floats, training=False)


def has_known_layers_only(encoder: keras.Model) -> bool:
    """Whether an encoder is a functional model of layers that are known to be exported in full.

    They are those of Keras and keras-cv, without the ones that hold functions of the caller. All
    encoders of `build_encoder` are.
    """
    if not is_functional(encoder):
        return False
    for kind in {type(layer) for layer in layers_of(encoder)}:
        if not kind.__module__.startswith(_KNOWN_MODULES) or kind.__name__ == "TFOpLambda":
            return False
    try:
        check_config(keras.saving.serialize_keras_object(encoder))
    except Exception:  # Functions of the caller, as activations for example.
        return False
    return True


@contextlib.contextmanager
def exportable(
    encoder: keras.Model,
    image_size: int | None,
    crop_proportion: float | None = None,
    representative: np.ndarray | None = None,
    images_problem: str = "it needs representative images.",
) -> Iterator[Exportable]:
    """Prepares an encoder for export; it must be written inside the `with` block.

    Raises:
      UserError: nothing can be exported, with the reason.
    """
    taken, given, image_size = checked_shapes(encoder, image_size)
    shape = probe_shape(taken, image_size)
    if representative is not None:
        if image_size is None and None in taken[1:3] and np.ndim(representative) == 4:
            shape = [1, *np.shape(representative)[1:3], taken[-1]]
        representative = _checked_images(representative, shape)
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        try:
            model, config_problem = _copy_or_itself(encoder, shape)
            stack.enter_context(plain_form(model))
            root, images = _traced(model, taken, shape)
        except UserError as error:
            raise UserError(f"encoder {encoder.name!r} cannot be exported: {error}") from error
        if not is_functional(model):
            left_out[ENDPOINTS] = "the encoder is not a functional model."
        if crop_proportion is None:
            crop_proportion = eval_crop_proportion(image_size) if image_size else 1.0
        yield Exportable(
            model,
            root,
            images,
            image_size,
            crop_proportion,
            given[-1],
            shape,
            config_problem,
            representative,
            images_problem,
            left_out,
        )


def checked_shapes(encoder, image_size: int | None) -> tuple[tuple, tuple, int | None]:
    """`encoder_shapes`, and the side to resize images to, once encoder and size fit."""
    taken, given = encoder_shapes(encoder)
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size must be at least 1; received {image_size!r}.")
    fixed = {side for side in taken[1:3] if side is not None} if is_functional(encoder) else set()
    if fixed and image_size is None and len(fixed) == 1:
        image_size = fixed.pop()
    if fixed - {image_size}:
        raise UserError(
            f"image_size={image_size!r} does not fit the encoder, whose input is {taken}."
        )
    return taken, given, image_size


def probe_shape(taken: tuple, image_size: int | None) -> list[int]:
    """The shape of one image to try the encoder on."""
    return [1, *(image_size or side or _PROBE_SIDE for side in taken[1:3]), taken[-1]]


def _checked_images(images, shape: list[int]) -> np.ndarray:
    """Representative images as float32 in [0, 1]; raises UserError if they are not such images."""
    images = np.asarray(images)
    if images.ndim != 4 or not len(images) or list(images.shape[1:]) != shape[1:]:
        raise UserError(
            f"representative_images must be [n, {', '.join(map(str, shape[1:]))}], n at least 1; "
            f"received {list(images.shape)}."
        )
    images = to_float(images).numpy()
    if not (np.min(images) >= 0 and np.max(images) <= 1):
        raise UserError(
            "representative_images must be uint8, or floats in [0, 1]; received values from "
            f"{np.min(images):.3g} to {np.max(images):.3g}."
        )
    return images


def _copy_or_itself(encoder, shape: list[int]) -> tuple[keras.Model, str]:
    """A plain copy if the config describes the encoder, else the encoder itself.

    Also returns why it cannot be rebuilt from its config later; "" if it can.
    """
    known = has_known_layers_only(encoder)
    is_same = _comparison(encoder, shape) if not known else lambda copy: True
    try:
        copy = plain_copy(encoder)
        if not is_same(copy):
            raise UserError(
                "a copy made from its config gives other vectors: the get_config() of a layer "
                "leaves something out, or the encoder is random when it does not train."
            )
    except UserError as error:
        if _is_mixed(encoder):
            raise UserError(
                "it computes in mixed precision, and what is exported is a copy in float32, which "
                f"cannot be made: {error} Train in float32, or correct get_config()."
            ) from error
        return encoder, str(error)
    return copy, "" if known else _config_problem(copy)


def _comparison(encoder, shape: list[int]) -> Callable[[keras.Model], bool]:
    """Whether a copy gives the encoder's h of one image; UserError if the encoder gives none."""
    images = np.random.default_rng(0).random(shape, np.float32)
    h = _h_of(trace_on_images(encoder, shape), images)
    tolerance = _MIXED_TOLERANCE if _is_mixed(encoder) else _TOLERANCE
    atol = tolerance * np.max(np.abs(np.nan_to_num(h)))

    def is_same(copy):
        other = _h_of(lambda x: copy(x, training=False), images)
        return h.shape == other.shape and np.allclose(h, other, rtol=0, atol=atol, equal_nan=True)

    return is_same


def _config_problem(copy) -> str:
    try:
        if not isinstance(copy, keras.Model):
            raise UserError("the encoder is a layer, not a model.")
        config = keras.saving.serialize_keras_object(copy)
        check_config(config)
        keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # The caller's own layers can fail in any way.
        return brief(error)
    return ""


def _traced(model, taken: tuple, shape: list[int]) -> tuple[ReusableEncoder, tf.TensorSpec]:
    """The model traced for images of any size if it takes any, else for those of one size."""
    shapes = [taken]
    if not is_functional(model):  # What it was called with need not be all that it takes.
        shapes = [(None, None, None, taken[-1]), (None, *shape[1:])]
    for shape in shapes:
        images = tf.TensorSpec(shape, tf.float32, "images")
        try:
            return ReusableEncoder(model, images), images
        except UserError:
            raise
        except Exception as error:  # The caller's own layers can fail in any way.
            failure = error
    raise UserError(f"it cannot be traced: {brief(failure)}") from failure


def _is_mixed(encoder) -> bool:
    return any(layer.compute_dtype != layer.variable_dtype for layer in layers_of(encoder))


def _h_of(function, images) -> np.ndarray:
    return tf.cast(function(tf.constant(images)), tf.float32).numpy()
