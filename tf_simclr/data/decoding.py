"""Encoded image files (JPEG, PNG, GIF, BMP) to uint8 tensors, in the graph, whatever their colours.

The format is read from the contents, never from the name: the name often lies.
"""

from __future__ import annotations

import tensorflow as tf

MAX_PIXELS = (
    100_000_000  # Larger ones are called bad: a header of a few bytes can ask for gigabytes.
)
_TOO_LARGE = f"an image of more than {MAX_PIXELS:,} pixels"


def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes one image; of an animation, the first frame.

    Grey, palette, 16-bit, transparent and CMYK images all come out with the same channels.
    Transparency is dropped, not blended.

    Args:
      contents: scalar string, an image file.
      channels: 1 (luma), 3 (RGB) or 4 (RGBA, for PNG only).

    Returns:
      uint8 [h, w, channels].

    Raises:
      tf.errors.InvalidArgumentError: damaged, of another format, or above `MAX_PIXELS`.
    """
    pixels = tf.reduce_prod(image_size(contents))
    limit = tf.constant(MAX_PIXELS, tf.int64)
    with tf.control_dependencies([tf.debugging.assert_less_equal(pixels, limit, _TOO_LARGE)]):
        contents = tf.identity(contents)

    def plain(channels):
        return tf.io.decode_image(contents, channels=channels, expand_animations=False)

    if channels == 4:
        image = plain(4)
    elif channels == 3:
        image = tf.cond(_format(contents) == _BMP, lambda: _decode_bmp(contents), lambda: plain(3))
    else:
        image = tf.cond(_has_luma(contents), lambda: plain(1), lambda: to_grey(decode(contents, 3)))
    return tf.ensure_shape(image, [None, None, channels])


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """uint8 [..., 3] to uint8 [..., 1], rounded: R = G = B comes out as it was."""
    grey = tf.image.rgb_to_grayscale(tf.cast(image, tf.float32))
    return tf.cast(tf.round(grey), tf.uint8)


def image_size(contents: tf.Tensor) -> tf.Tensor:
    """Height and width from the header alone, without decoding.

    Args:
      contents: scalar string, an image file.

    Returns:
      int64 [2]; [0, 0] for what is no JPEG, PNG, GIF or BMP.
    """
    header = _header(contents)

    def jpeg():
        return tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64)

    def png():
        return tf.stack(
            [_integer(header, 20, 4, big_endian=True), _integer(header, 16, 4, big_endian=True)]
        )

    def gif():
        return tf.stack([_integer(header, 8, 2), _integer(header, 6, 2)])

    def bmp():
        height = _integer(header, 22, 4)  # Negative, in two's complement, when stored top down.
        height = tf.where(height < 2**31, height, 2**32 - height)
        return tf.stack([height, _integer(header, 18, 4)])

    def unknown():
        return tf.zeros([2], tf.int64)

    return tf.switch_case(_format(contents), [unknown, jpeg, png, gif, bmp])


_MAGIC = (b"", b"\xff\xd8", b"\x89P", b"GI", b"BM")
_BMP = 4
_HEADER = 32


def _format(contents):
    """Place in _MAGIC by the first two bytes; 0: unknown."""
    matches = tf.strings.substr(contents, 0, 2) == tf.constant(_MAGIC)
    return tf.argmax(matches, output_type=tf.int32)


def _has_luma(contents):
    """Whether decode_image has grey for it: not for GIF, BMP and the CMYK kind of JPEG."""

    def jpeg():
        return tf.image.extract_jpeg_shape(contents)[2] != 4

    def never():
        return False

    return tf.switch_case(_format(contents), [never, jpeg, lambda: True, never, never])


def _header(contents):
    """The first bytes, int64 [_HEADER]; zeros behind the end of a shorter file."""
    # Not substr at the place of a field: where that is beyond the end, the error it makes has the
    # file's bytes in its text, and Python fails to read it.
    start = tf.strings.substr(contents, 0, _HEADER)
    values = tf.io.decode_raw(start, tf.uint8, fixed_length=_HEADER)
    return tf.cast(tf.ensure_shape(values, [_HEADER]), tf.int64)


def _integer(header, place, size, big_endian=False):
    """An unsigned integer of a header."""
    weights = [256**i for i in range(size)]
    weights = tf.constant(weights[::-1] if big_endian else weights, tf.int64)
    return tf.reduce_sum(header[place : place + size] * weights)


def _decode_bmp(contents):
    """A BMP as RGB; with 8 bits per pixel decode_image would take palette indices for grey."""
    header = _header(contents)

    def palette():
        # A header, a palette of (blue, green, red, 0), indices into it.
        zero = tf.constant(0, tf.int64)
        start, end = 14 + _integer(header, 14, 4), _integer(header, 10, 4)
        colours = tf.io.decode_raw(tf.strings.substr(contents, zero, end), tf.uint8)[start:]
        colours = tf.reshape(colours, [-1, 4])[:, 2::-1]
        indices = tf.io.decode_bmp(contents, channels=0)[..., 0]
        return tf.gather(colours, tf.cast(indices, tf.int32))

    def colour():
        return tf.io.decode_image(contents, channels=3, expand_animations=False)

    return tf.cond(_integer(header, 28, 2) == 8, palette, colour)
