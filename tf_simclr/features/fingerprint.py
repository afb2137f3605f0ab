"""Short digests that identify encoders and images, for the names of folders."""

from __future__ import annotations

import hashlib
import json
import os
import re

import numpy as np

from tf_simclr.stack import keras

_LENGTH = 16  # Hexadecimal digits: 64 bits.


def encoder_fingerprint(encoder: keras.Model) -> str:
    """A digest of an encoder's architecture (its config) and its exact weights."""
    config = {"class": type(encoder).__name__, "config": encoder.get_config()}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in encoder.get_weights():
        weight = np.asarray(weight)
        digest.update(repr((weight.dtype.str, weight.shape)).encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:_LENGTH]


def images_key(source, image_size: int) -> str:
    """The name of a split's folder: the split's name, and a digest of the encoder's input.

    The digest covers the images (the source's fingerprint and, for a folder, its path, as the
    fingerprint covers relative names and sizes only), their labels, size and channels.
    """
    folder = source.folder
    if folder and "://" not in folder:
        folder = os.path.abspath(folder)
    facts = [source.name, source.split, source.fingerprint, folder, image_size, source.channels]
    digest = hashlib.sha256(json.dumps([*facts, source.class_names]).encode())
    if source.labels is not None:
        digest.update(np.ascontiguousarray(source.labels).tobytes())
    name = re.sub(r"[^\w.-]+", "_", source.split, flags=re.ASCII).strip("_.")
    return f"{name[:40]}-{digest.hexdigest()[:_LENGTH]}"
