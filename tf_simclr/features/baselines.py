"""Baselines for the features of a trained encoder: random weights, and raw pixels."""

from __future__ import annotations

import numpy as np

from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.stack import keras

_PIXEL_SIDE = 32  # Largest side for raw pixels; more pixels only add noise and time.


def untrained_like(encoder: keras.Model, seed: int) -> keras.Model:
    """The same architecture with random weights from the seed."""
    keras.utils.set_random_seed(seed)
    return type(encoder).from_config(encoder.get_config())


def raw_pixels(source, *, image_size: int, batch_size: int) -> np.ndarray:
    """Every image as a vector of its pixels, float32 [N, side * side * C] in [0, 1]."""
    side = min(image_size, _PIXEL_SIDE)
    dataset = eval_dataset(source, batch_size=batch_size, image_size=side)
    with naming_bad_images(source):
        return np.concatenate([images.numpy().reshape(len(images), -1) for images in dataset])
