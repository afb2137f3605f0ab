"""What is random in a batch: pure functions of (seed, step), drawn for the whole global batch.

Drawing for the global batch and slicing afterwards makes the result independent of how many
replicas, workers or threads share the work, and makes step s reachable with no iterator state.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tf_simclr.errors import UserError

_ATTEMPTS = 10  # Crop candidates; all ten miss with p < 1e-4 for a square image.
_KEYS, _HOST_KEYS = 11, 2


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """The random transformation T, defaults as in the paper (arXiv:2002.05709, appendix A).

    Attributes:
      color_jitter_strength: s; brightness, contrast and saturation factors U[1 - 0.8 s, 1 + 0.8 s]
        (never below 0), hue shift U[-0.2 s, 0.2 s] turns. 0: no jitter.
      color_jitter_probability: per view.
      grayscale_probability: per view, independent of the jitter.
      blur: whether to blur at all.
      blur_probability: per view; sigma U[0.1, 2.0] pixels.
      flip_probability: per view, left to right.
      crop_area: smallest and largest share of the image's area.
      crop_aspect: smallest and largest width / height, log-uniform between.
    """

    color_jitter_strength: float = 1.0
    color_jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur: bool = True
    blur_probability: float = 0.5
    flip_probability: float = 0.5
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability") and not 0.0 <= value <= 1.0:
                raise UserError(f"{field.name} must lie in [0, 1]; received {value!r}.")
        if not 0.0 <= self.color_jitter_strength <= 2.5:
            raise UserError(
                "color_jitter_strength must lie in [0, 2.5], beyond which the hue turns full "
                f"circle; received {self.color_jitter_strength!r}."
            )
        for name, highest in (("crop_area", 1.0), ("crop_aspect", math.inf)):
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= highest:
                raise UserError(
                    f"{name} must be (low, high) with 0 < low <= high <= {highest:g}; "
                    f"received {getattr(self, name)!r}."
                )


def example_indices(num_examples: int, batch_size: int, seed: int, step) -> tf.Tensor:
    """Which examples step `step` sees: [B] int64, a new order every epoch.

    An epoch is num_examples // batch_size steps, so no image meets itself as a negative within a
    batch. The remainder is left out, and differs from epoch to epoch.
    """
    step = tf.cast(step, tf.int64)
    steps_per_epoch = num_examples // batch_size
    epoch, step = step // steps_per_epoch, step % steps_per_epoch
    position = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    last = tf.constant(num_examples - 1, tf.int64)
    return tf.random.experimental.index_shuffle(position, key, last)


def draw_views(options: ViewOptions, channels: int, batch_size: int, seed: int, step) -> dict:
    """Draws everything that is random in the two views of a global batch.

    Args:
      options: the laws to draw from.
      channels: of the images; saturation, hue and grayscale exist for 3 only.
      batch_size: B, the global batch.
      seed, step: all that the draws depend on.

    Returns:
      The entries of `draw_crops` and of `draw_finishing`.
    """
    return {
        **draw_crops(options, batch_size, seed, step),
        **draw_finishing(options, channels, batch_size, seed, step),
    }


def draw_crops(options: ViewOptions, batch_size: int, seed: int, step) -> dict:
    """Draws what the host needs to make uint8 views: where to crop, and whether to flip.

    Args:
      options, batch_size, seed, step: as `draw_views`.

    Returns:
      "crop" float32 [B, 2, 10, 4], uniforms for `crop_box`; "flip" bool [B, 2].
    """
    crop, flip = _keys(seed, step)[:_HOST_KEYS]
    return {
        "crop": _uniform([batch_size, 2, _ATTEMPTS, 4], crop),
        "flip": _uniform([batch_size, 2], flip) < options.flip_probability,
    }


def draw_finishing(options: ViewOptions, channels: int, batch_size: int, seed: int, step) -> dict:
    """Draws what the device needs to finish the views: colour jitter, grayscale and blur.

    Args:
      options, channels, batch_size, seed, step: as `draw_views`.

    Returns:
      Tensors [B, 2] (image, view): "brightness", "contrast", "saturation" factors, "hue" turns,
      "order" int32 in [0, 24); "grayscale" bool; "sigma" pixels, 0 for no blur. Operations that are
      off, or do not exist for these channels, have no entry.
    """
    keys = iter(_keys(seed, step)[_HOST_KEYS:])
    shape = [batch_size, 2]

    def uniform(low=0.0, high=1.0):
        return _uniform(shape, next(keys), low, high)

    jittered = uniform() < options.color_jitter_probability
    reach = 0.8 * options.color_jitter_strength
    factors = [
        tf.where(jittered, uniform(max(1.0 - reach, 0.0), 1.0 + reach), 1.0) for _ in range(3)
    ]
    turn = 0.2 * options.color_jitter_strength
    hue = tf.where(jittered, uniform(-turn, turn) if turn else 0.0, 0.0)
    order = tf.random.stateless_uniform(shape, next(keys), 0, 24, tf.int32, alg="philox")
    grayscale = uniform() < options.grayscale_probability
    blurred, sigma = uniform() < options.blur_probability, uniform(0.1, 2.0)

    drawn = {}
    if options.color_jitter_strength and options.color_jitter_probability:
        drawn.update(brightness=factors[0], contrast=factors[1], order=order)
        if channels == 3:
            drawn.update(saturation=factors[2], hue=hue)
    if channels == 3 and options.grayscale_probability:
        drawn["grayscale"] = grayscale
    if options.blur and options.blur_probability:
        drawn["sigma"] = tf.where(blurred, sigma, 0.0)
    return drawn


def crop_box(uniforms, height, width, options: ViewOptions) -> tf.Tensor:
    """The random crop of an image: of ten candidates the first that fits.

    Area U[crop_area] of the image's, aspect log-uniform in crop_aspect, position uniform among
    the places where it fits. When none of the ten candidates fits (long images), the largest
    centred crop of an allowed aspect.
    Differs from google-research/simclr (tf2/data_util.py): area from 0.08 as the paper says; there
    min_object_covered makes it 0.1.

    Args:
      uniforms: [..., 10, 4] in [0, 1): area, aspect, top, left of each candidate.
      height, width: of the image in pixels, both scalars or both [...].
      options: for the laws.

    Returns:
      [..., 4] int32: top, left, height, width in pixels, inside the image.
    """
    # Keep the operations few: for images of different sizes this runs once per image.
    size = tf.cast(tf.stack([height, width], axis=-1), tf.float32)
    (low, high), aspects = options.crop_area, options.crop_aspect
    log_low, log_high = math.log(aspects[0]), math.log(aspects[1])
    side = tf.sqrt(low + uniforms[..., 0] * (high - low))
    stretch = tf.exp((log_low + uniforms[..., 1] * (log_high - log_low)) * 0.5)
    shapes = tf.stack([side / stretch, side * stretch], axis=-1)
    of_image = tf.sqrt(tf.reduce_prod(size, axis=-1))[..., tf.newaxis, tf.newaxis]
    shapes = tf.maximum(tf.round(of_image * shapes), 1.0)
    fits = tf.reduce_all(shapes <= size[..., tf.newaxis, :], axis=-1)
    first = tf.argmax(fits, axis=-1)
    candidates = tf.concat([shapes, uniforms[..., 2:]], axis=-1)
    chosen = tf.gather(candidates, first, axis=-2, batch_dims=uniforms.shape.rank - 2)
    shape, place = chosen[..., :2], chosen[..., 2:]
    box = tf.concat([tf.floor(place * (size - shape + 1.0)), shape], axis=-1)

    # The largest height for this width at the smallest aspect, and width for this height at the
    # largest.
    across = size[..., ::-1] * tf.constant([1.0 / aspects[0], aspects[1]])
    shape = tf.maximum(tf.round(tf.minimum(size, across)), 1.0)
    centred = tf.concat([(size - shape) // 2.0, shape], axis=-1)
    some = tf.reduce_any(fits, axis=-1)[..., tf.newaxis]
    return tf.cast(tf.where(some, box, centred), tf.int32)


def _keys(seed, step):
    """A key for each of the draws of a step; which draw takes which must not change."""
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.unstack(tf.random.split(key, _KEYS, alg="philox"))


def _uniform(shape, key, low=0.0, high=1.0):
    return tf.random.stateless_uniform(shape, key, low, high, alg="philox")
