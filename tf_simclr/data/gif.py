"""Cuts out the first frame of a GIF as a separate file, with its place on the canvas."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_simclr.data.binary import byte, either, numbers, piece

# Limits of the loops below; encoders stay far below them.
_MAX_EXTENSIONS = 20  # Before the first frame.
_MAX_EXTENSION, _MAX_FRAME = 20_000, 500_000  # Number of pieces of up to 255 bytes.


class GifFrame(NamedTuple):
    """The first frame of a GIF.

    Attributes:
      file: a GIF of this frame alone, with its transparent colour made white; scalar string.
        Empty if there is no frame within the limits above.
      canvas: height and width of the canvas, int64 [2].
      place: top and left of the frame on the canvas, int64 [2].
      transparent: whether the frame has a transparent colour, bool.
    """

    file: tf.Tensor
    canvas: tf.Tensor
    place: tf.Tensor
    transparent: tf.Tensor


def gif_frame(contents: tf.Tensor) -> GifFrame:
    """Cuts the first frame out of a GIF: TensorFlow would decode all, and lose the frame's place.

    A GIF is a header, blocks, and ";". A block is an extension ("!" and a label) or a frame (","
    with a place, a size and perhaps a palette), followed by pieces. A piece is its length and as
    many bytes; an empty piece ends the block.
    """
    zero = tf.constant(0, tf.int64)
    start, transparent = tf.while_loop(
        lambda place, transparent: byte(contents, place) == ord("!"),
        lambda place, transparent: [
            _pieces_end(contents, place + 2, _MAX_EXTENSION),
            _transparent_colour(contents, place, transparent),
        ],
        [13 + 3 * _palette_size(byte(contents, 10)), zero - 1],
        maximum_iterations=_MAX_EXTENSIONS,
    )
    left, top, width, height = tf.unstack(numbers(contents, start + 1, 4, tf.uint16, False))
    screen = numbers(contents, 6, 2, tf.uint16, False)[::-1]
    found = byte(contents, start) == ord(",")

    def file():
        flags = byte(contents, start + 9)
        pixels = start + 10 + 3 * _palette_size(flags)
        end = _pieces_end(contents, pixels + 1, _MAX_FRAME)
        size = piece(contents, start + 5, 4)
        interlaced = tf.where(flags & 0x40 > 0, b"\x40", b"\0")
        parts = [
            *(piece(contents, zero, 6), size, _white_palette(contents, start, transparent)),
            *(b",\0\0\0\0", size, interlaced, piece(contents, pixels, end - pixels), b";"),
        ]
        return tf.strings.join(parts)

    return GifFrame(
        tf.cond(found, file, lambda: tf.constant(b"")),
        # As in browsers, a frame that extends beyond the canvas enlarges it.
        either(found, tf.maximum(screen, [top + height, left + width]), 0),
        tf.stack([top, left]),
        transparent >= 0,
    )


def _transparent_colour(contents, place, before):
    """Index of the transparent colour if the extension at `place` sets one, else `before`."""
    label, _, flags, _, _, index = tf.unstack(numbers(contents, place + 1, 6, tf.uint8))
    return tf.where((label == 0xF9) & (flags & 1 > 0), index, before)


def _white_palette(contents, start, transparent):
    """The bytes of a GIF between the size and the first frame: flags and the frame's palette.

    The transparent colour becomes white; the palette is enlarged if it lacks that index.
    """
    own, shared = byte(contents, start + 9), byte(contents, 10)
    flags = tf.where(own >= 128, own, shared)  # Bit 128: there is a palette.
    place, size = either(own >= 128, start + 10, 13), _palette_size(flags)
    palette = piece(contents, place, 3 * size)
    grows = transparent >= size
    palette = tf.strings.join([palette, tf.where(grows, b"\0" * 768, b"")])
    after = 3 * transparent + 3
    whitened = tf.strings.join(
        [piece(palette, 0, after - 3), b"\xff\xff\xff", piece(palette, after, 768)]
    )
    palette = piece(tf.where(transparent >= 0, whitened, palette), 0, either(grows, 768, 3 * size))
    code = either(grows, 7, flags % 8)
    code = tf.gather([bytes([128 + n]) for n in range(8)], code)
    return tf.strings.join([tf.where(flags >= 128, code, b"\0"), b"\0\0", palette])


def _pieces_end(contents, place, most):
    """The position after the last piece."""
    last = tf.while_loop(
        lambda place: byte(contents, place) > 0,
        lambda place: [place + 1 + byte(contents, place)],
        [place],
        maximum_iterations=most,
    )[0]
    return last + 1


def _palette_size(flags):
    return either(flags >= 128, 2 ** (flags % 8 + 1), 0)
