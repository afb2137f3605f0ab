"""Representations of a data set: h of an encoder for every image, and what it is compared with."""

from tf_simclr.features.computing import raw_pixels, represent

__all__ = ["raw_pixels", "represent"]
