"""Representations of a data set: h of an encoder for every image, computed once and kept."""

from tf_simclr.features.computing import Computer, even_size, raw_pixels, represent
from tf_simclr.features.fingerprint import encoder_fingerprint, images_key
from tf_simclr.features.keeping import Kept, Part, keep, mention_others, read

__all__ = [
    "Computer",
    "Kept",
    "Part",
    "encoder_fingerprint",
    "even_size",
    "images_key",
    "keep",
    "mention_others",
    "raw_pixels",
    "read",
    "represent",
]
