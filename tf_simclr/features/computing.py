"""Features of a data set for evaluation: h of an encoder, and the baselines beside it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.pipeline import eval_dataset

_PIXEL_SIDE = 32  # Raw pixels are compared at 32 x 32 at most; more only adds noise and time.


def represent(encoder, source, *, image_size: int, batch_size: int, name: str = "") -> np.ndarray:
    """h of every image of a source in order, float32 [N, D]."""
    dataset = eval_dataset(source, batch_size=batch_size, image_size=image_size)
    call = tf.function(
        lambda images: encoder(images, training=False), input_signature=[dataset.element_spec]
    )
    batches = tqdm(
        dataset, total=-(-source.num_examples // batch_size), desc=name, mininterval=5, delay=3
    )
    with naming_bad_images(source):
        return np.concatenate([call(images).numpy() for images in batches]).astype(np.float32)


def raw_pixels(source, *, image_size: int, batch_size: int) -> np.ndarray:
    """Every image as a vector of its pixels, float32 [N, side * side * C] in [0, 1]."""
    side = min(image_size, _PIXEL_SIDE)
    dataset = eval_dataset(source, batch_size=batch_size, image_size=side)
    with naming_bad_images(source):
        return np.concatenate([images.numpy().reshape(len(images), -1) for images in dataset])
