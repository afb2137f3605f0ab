"""Reads the chunks of a PNG (W3C, PNG Specification) in the graph, without decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_simclr.data.binary import contains, either, numbers, piece
from tf_simclr.data.exif import exif_orientation

_MAX_CHUNKS = 100_000  # Encoders write far fewer: at most one per 8 KiB.
_PIXELS = int.from_bytes(b"IDAT", "big")
_CHUNKS = (b"eXIf", b"sBIT", b"tRNS")  # The chunks to look for.


def is_plain_png(contents: tf.Tensor) -> tf.Tensor:
    """Whether a PNG's pixels certainly need no change, bool scalar.

    The chunks that matter come before the pixels, except eXIf, which may come after them.
    """
    colours = numbers(contents, 25, 1, tf.uint8)[0]
    pixels_first = piece(contents, 37, 4) == b"IDAT"
    opaque = (colours == 0) | (colours == 2)  # Grey and RGB.
    return opaque & pixels_first & ~contains(contents, "eXIf")


class PngFacts(NamedTuple):
    """Facts from the chunks of a PNG.

    Attributes:
      size: height and width as stored, int64 [2].
      orientation: a function that returns the EXIF orientation, int64 scalar from 1 to 8.
      plain: whether `orientation` is 1, `transparent` False and `significant` is `bits`, bool.
      transparent: whether there is an alpha channel or a transparent colour, bool.
      bits: bits per sample, int64: 1, 2, 4, 8 or 16.
      significant: how many of those bits carry information, int64.
    """

    size: tf.Tensor
    orientation: Callable[[], tf.Tensor]
    plain: tf.Tensor
    transparent: tf.Tensor
    bits: tf.Tensor
    significant: tf.Tensor


def png_size(contents: tf.Tensor) -> tf.Tensor:
    """Height and width as stored, int64 [2]."""
    return numbers(contents, 16, 2, tf.int32)[::-1]


def png_facts(contents: tf.Tensor) -> PngFacts:
    """Walks through all chunks of a PNG, as eXIf may come after the pixels."""
    bits, colours = tf.unstack(numbers(contents, 24, 2, tf.uint8))
    names = tf.constant([int.from_bytes(name, "big") for name in _CHUNKS], tf.int64)

    def head(place):
        """Length and name of the chunk at `place`."""
        return numbers(contents, place, 2, tf.int32)

    def step(place, current, found):
        found = tf.where(names == current[1], place, found)
        # Pixels are in many chunks of the same size, except the last. All are skipped at once if
        # that leads to another chunk of pixels.
        size = 12 + current[0]
        leap = place + tf.maximum((end - place) // size, 1) * size
        pixels = (current[1] == _PIXELS) & (head(leap)[1] == _PIXELS)
        place = tf.where(pixels, leap, place + size)
        return [place, head(place), found]

    end = tf.cast(tf.strings.length(contents), tf.int64)
    first = tf.constant(8, tf.int64)
    _, _, found = tf.while_loop(
        lambda place, current, found: current[1] > 0,  # 0: beyond the end of the file.
        step,
        [first, head(first), tf.zeros_like(names)],
        maximum_iterations=_MAX_CHUNKS,
    )
    exif, bits_used, transparency = tf.unstack(found)  # Where each chunk begins; 0: absent.

    def data(place):
        return piece(contents, place + 8, either(place > 0, head(place)[0], 0))

    significant = tf.reduce_max(numbers(data(bits_used), 0, 4, tf.uint8))
    lacking = (significant > 0) & (significant < bits)
    transparent = (colours == 4) | (colours == 6) | (transparency > 0)
    return PngFacts(
        png_size(contents),
        lambda: exif_orientation(data(exif)),
        ~(transparent | lacking | (exif > 0)),
        transparent,
        bits,
        tf.where(lacking, significant, bits),
    )
