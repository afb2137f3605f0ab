"""Features of a data set: an encoder's h for every image, computed once and kept on disk."""

from tf_simclr.features.baselines import raw_pixels, untrained_like
from tf_simclr.features.computing import Computer, check_channels, even_size, represent
from tf_simclr.features.fingerprint import encoder_fingerprint, images_key
from tf_simclr.features.keeping import Kept, Part, keep, mention_others, read

__all__ = [
    "Computer",
    "Kept",
    "Part",
    "check_channels",
    "encoder_fingerprint",
    "even_size",
    "images_key",
    "keep",
    "mention_others",
    "raw_pixels",
    "read",
    "represent",
    "untrained_like",
]
