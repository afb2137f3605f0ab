"""Encoded image files (JPEG, PNG, GIF, BMP) to uint8 tensors, in the graph, whatever their colours.

The format is read from the contents, never from the name: the name often lies.
"""

from __future__ import annotations

import functools

import tensorflow as tf

MAX_BYTES = 500_000_000  # Of a file, which is read into memory whole: larger ones are called bad.
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
    is_jpeg = tf.strings.substr(contents, 0, 2) == _MAGIC[_JPEG]
    # JPEGs come by the million: they are spared what the other formats need.
    other = _apart(functools.partial(_decode_other, channels=channels))
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(contents, channels), lambda: other(contents))
    return tf.ensure_shape(image, [None, None, channels])


def _apart(function):
    """In a graph, a function of its own: inlined, each of its operations costs time, run or not."""
    if tf.executing_eagerly():
        return function
    return tf.function(function, experimental_attributes={"_noinline": True})


def _decode_jpeg(contents, channels):
    shape = tf.image.extract_jpeg_shape(contents)
    contents = _refuse_giants(contents, shape[:2])
    if channels != 1:
        return _decode_image(contents, channels)
    # Of the CMYK kind decode_image has no grey.
    return tf.cond(
        shape[2] == 4,
        lambda: to_grey(_decode_image(contents, 3)),
        lambda: _decode_image(contents, 1),
    )


def _decode_other(contents, channels):
    contents = _first_frame(contents)
    contents = _refuse_giants(contents, image_size(contents))
    kind = _format(contents)
    if channels == 4:
        return _decode_image(contents, 4)
    if channels == 3:
        return tf.cond(
            kind == _BMP, lambda: _decode_bmp(contents), lambda: _decode_image(contents, 3)
        )
    # Of GIF and BMP decode_image has no grey.
    return tf.cond(
        kind == _PNG,
        lambda: _decode_image(contents, 1),
        lambda: to_grey(_decode_other(contents, 3)),
    )


def _decode_image(contents, channels):
    return tf.io.decode_image(contents, channels=channels, expand_animations=False)


def _refuse_giants(contents, size):
    # In floating point: the product of two sides of 32 bits can exceed an int64.
    pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    limit = tf.constant(MAX_PIXELS, tf.float64)
    with tf.control_dependencies([tf.debugging.assert_less_equal(pixels, limit, _TOO_LARGE)]):
        return tf.identity(contents)


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """uint8 [..., 3] to uint8 [..., 1], rounded: R = G = B comes out as it was."""
    grey = tf.image.rgb_to_grayscale(tf.cast(image, tf.float32))
    return tf.cast(tf.round(grey), tf.uint8)


def image_size(contents: tf.Tensor) -> tf.Tensor:
    """Height and width from the header alone, without decoding.

    Args:
      contents: scalar string, an image file.

    Returns:
      int64 [2]; [0, 0] for what is no JPEG, PNG, GIF or BMP. Of a GIF, that of its first frame.
    """
    header = _header(contents)

    def jpeg():
        return tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64)

    def png():
        return tf.stack(
            [_integer(header, 20, 4, big_endian=True), _integer(header, 16, 4, big_endian=True)]
        )

    def gif():
        start = tf.minimum(_gif_frame(contents), tf.strings.length(contents))
        frame = _header(tf.strings.substr(contents, start, 10))
        return tf.stack([_integer(frame, 7, 2), _integer(frame, 5, 2)])

    def bmp():
        height = _integer(header, 22, 4)  # Negative, in two's complement, when stored top down.
        height = tf.where(height < 2**31, height, 2**32 - height)
        return tf.stack([height, _integer(header, 18, 4)])

    def unknown():
        return tf.zeros([2], tf.int64)

    return tf.switch_case(_format(contents), [unknown, jpeg, png, gif, bmp])


_MAGIC = (b"", b"\xff\xd8", b"\x89P", b"GI", b"BM")
_JPEG, _PNG, _GIF, _BMP = range(1, 5)
# Of a GIF, in pieces of up to 255 bytes: enough for any image, an end for pieces of one byte.
_MAX_PIECES, _MAX_EXTENSION, _MAX_EXTENSIONS = 500_000, 20_000, 20
_HEADER = 32


def _format(contents):
    """Place in _MAGIC by the first two bytes; 0: unknown."""
    matches = tf.strings.substr(contents, 0, 2) == tf.constant(_MAGIC)
    return tf.argmax(matches, output_type=tf.int32)


def _first_frame(contents):
    """A GIF without all but its first frame: the decoder would decode each and keep one."""

    def cut():
        start = _gif_frame(contents)
        pieces = start + 11 + _palette_bytes(_byte(contents, start + 9))
        end = tf.cond(
            _byte(contents, start) == ord(","),
            lambda: _pieces_end(contents, pieces, _MAX_PIECES),
            lambda: 0,  # No frame, or behind more than any encoder writes: damaged.
        )
        return tf.strings.substr(contents, 0, end) + b";"

    return tf.cond(_format(contents) == _GIF, cut, lambda: contents)


def _gif_frame(contents):
    """Where the first frame of a GIF begins, int32; where it has none, no "," is there.

    A GIF is a header, blocks, and ";". A block is "!" and a label (an extension), or "," with a
    size and perhaps a palette (a frame); then pieces behind their lengths, the last empty.
    """
    return tf.while_loop(
        lambda place: _byte(contents, place) == ord("!"),
        lambda place: [_pieces_end(contents, place + 2, _MAX_EXTENSION)],
        [13 + _palette_bytes(_byte(contents, 10))],
        maximum_iterations=_MAX_EXTENSIONS,
    )[0]


def _pieces_end(contents, place, most):
    """The place behind the last piece."""
    last = tf.while_loop(
        lambda place: _byte(contents, place) > 0,
        lambda place: [place + 1 + _byte(contents, place)],
        [place],
        maximum_iterations=most,
    )[0]
    return last + 1


def _palette_bytes(flags):
    return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)


def _byte(contents, place):
    """A byte as int32; 0 behind the end."""
    piece = tf.strings.substr(contents, tf.minimum(place, tf.strings.length(contents)), 1)
    return tf.cast(tf.io.decode_raw(piece, tf.uint8, fixed_length=1)[0], tf.int32)


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
