"""A few images on which what was written is compared with the Keras model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_simclr.stack import keras

_IMAGES = 16
_GRID = 4  # Cells a side of a synthetic image.
# Dimensions that hardly vary are measured against these shares of the average deviation and of the
# largest entry: float32 rounding is not to be divided by almost nothing.
_FLOOR, _FLOOR_OF_SIZE = 0.1, 0.01
_TIMES_NOISE = 10.0  # `noise` is that of the images alone, and every layer rounds too.


class Probe:
    """Images, and the h that the Keras model gives of them.

    Attributes:
      images: float32 [n, H, W, C] in [0, 1], whole multiples of 1/255.
      h: float32 [n, D].
      noise: the difference when every pixel changes by one float32 step. It is large for deep
        networks that amplify rounding, and for random ones.
    """

    def __init__(
        self, model: keras.Model, shape: list[int], representative: np.ndarray | None = None
    ):
        """
        Args:
          model: from images to h.
          shape: [H, W, C] of the images.
          representative: float32 [m, H, W, C] in [0, 1]; None: synthetic images.
        """
        images = _synthetic(shape) if representative is None else representative[:_IMAGES]
        self.images = np.round(images * 255).astype(np.float32) / np.float32(255)
        answer = function_of(model)
        self.h = answer(self.images)
        self.noise = self.difference(lambda x: answer(np.nextafter(x, np.float32(0.5))))

    def limit(self, tolerance: float) -> float:
        """The largest difference that is accepted: `tolerance`, or ten times `noise` if larger."""
        return max(tolerance, _TIMES_NOISE * self.noise)

    def difference(self, function: Callable[[np.ndarray], np.ndarray]) -> float:
        """The largest difference from the model's h, in standard deviations of its dimension.

        Args:
          function: images float32 [n, H, W, C] -> [n, D].

        Returns:
          At least 0; infinity if the shape or the place of a NaN differs.
        """
        return relative_difference(self.h, function(self.images))


def function_of(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to h, layer by layer: for a single call, tracing would take longer."""
    return lambda images: tf.cast(model(tf.constant(images), training=False), tf.float32).numpy()


def relative_difference(h, other) -> float:
    """The largest |other - h|, in standard deviations of the dimension of h over the images.

    Args:
      h, other: [N, D]. Deviations below a tenth of the average one, or below a hundredth of the
        largest |h|, count as much as these.

    Returns:
      At least 0; infinity if the shape or the place of a NaN or infinity differs.
    """
    h, other = np.asarray(h, np.float64), np.asarray(other, np.float64)
    finite = np.isfinite(h)
    if h.shape != other.shape or not np.array_equal(finite, np.isfinite(other)):
        return np.inf
    h, other = np.where(finite, h, 0.0), np.where(finite, other, 0.0)
    deviation = h.std(axis=0)
    floor = max(_FLOOR * deviation.mean(), _FLOOR_OF_SIZE * np.abs(h).max()) or 1.0
    return float(np.max(np.abs(other - h) / np.maximum(deviation, floor)))


def _synthetic(shape: list[int]) -> np.ndarray:
    """Soft patches of random colours, which differ from each other more than noise would."""
    cells = np.random.default_rng(0).random([_IMAGES, _GRID, _GRID, shape[-1]], np.float32)
    return tf.image.resize(cells, shape[:2]).numpy()
