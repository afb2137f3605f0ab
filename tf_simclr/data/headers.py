"""Reads the headers of image files (JPEG, PNG, GIF, BMP) in the graph, without decoding.

As files may be damaged, bytes beyond the end read as zeros, and every loop has a limit.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tf_simclr.data.binary import contains, either, numbers, piece
from tf_simclr.data.exif import exif_orientation
from tf_simclr.data.gif import gif_frame
from tf_simclr.data.png import png_facts

_MAGIC = (b"", b"\xff\xd8", b"\x89P", b"GI", b"BM")
JPEG, PNG, GIF, BMP = range(1, 5)

_MAX_SEGMENTS = 500  # In a JPEG; encoders write far fewer: an ICC profile takes up to 255.
_LENGTH = [False, True, False, False, False]  # Selects the length from a segment's words.


def format_of(contents: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, GIF or BMP by the first two bytes, else 0; int32 scalar."""
    matches = tf.strings.substr(contents, 0, 2) == tf.constant(_MAGIC)
    return tf.argmax(matches, output_type=tf.int32)


def is_plain_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Whether this is a JPEG that cannot have EXIF data, bool scalar.

    Searching for "Exif" is cheaper than walking through the segments, which is needed only if the
    word occurs.
    """
    return (tf.strings.substr(contents, 0, 2) == _MAGIC[JPEG]) & ~contains(contents, "Exif")


class ImageFacts(NamedTuple):
    """Facts that affect how an image is decoded.

    Attributes:
      size: height and width of what `decoding.decode` returns, int64 [2]; [0, 0] for anything but
        JPEG, PNG, GIF and BMP, and for a GIF without a frame.
      turned: whether EXIF says that it is stored rotated or mirrored, bool.
      transparent: whether it has an alpha channel or a transparent colour, bool.
      deep: whether its samples have 16 bits, bool.
    """

    size: tf.Tensor
    turned: tf.Tensor
    transparent: tf.Tensor
    deep: tf.Tensor


@tf.autograph.experimental.do_not_convert  # Nothing to convert, and AutoGraph is slow to see that.
def image_facts(contents: tf.Tensor) -> ImageFacts:
    """Reads the header of an image file, a scalar string, without decoding.

    Height and width are swapped if EXIF says that the image is stored on its side. The size of a
    GIF is that of its canvas.
    """
    no = tf.constant(False)

    def jpeg():
        size = tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64)
        orientation = jpeg_orientation(contents)
        return [_turned(size, orientation), orientation > 1, no, no]

    def png():
        facts = png_facts(contents)
        orientation = facts.orientation()
        size = _turned(facts.size, orientation)
        return [size, orientation > 1, facts.transparent, facts.bits == 16]

    def gif():
        frame = gif_frame(contents)
        return [frame.canvas, no, frame.transparent, no]

    def bmp():
        facts = bmp_facts(contents)
        return [facts.size, no, facts.transparent, no]

    def unknown():
        return [tf.zeros([2], tf.int64), no, no, no]

    return ImageFacts(*tf.switch_case(format_of(contents), [unknown, jpeg, png, gif, bmp]))


def image_size(contents: tf.Tensor) -> tf.Tensor:
    """Height and width of what `decoding.decode` returns: `ImageFacts.size`, int64 [2]."""
    return image_facts(contents).size


def _turned(size, orientation):
    return tf.where(orientation > 4, size[::-1], size)


def jpeg_orientation(contents: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG (ITU-T T.81, annex B; CIPA DC-008), int64 scalar from 1 to 8.

    EXIF data are in an APP1 segment before the tables. Without them the orientation is 1, upright.
    """
    offset = tf.constant(2, tf.int64)
    offset, head = tf.while_loop(
        lambda offset, head: _is_metadata(head) & ~_is_exif(head),
        lambda offset, head: _next_segment(contents, offset, head),
        [offset, _segment(contents, offset)],
        maximum_iterations=_MAX_SEGMENTS,
    )
    orientation = exif_orientation(piece(contents, offset + 10, head[1] - 8))
    return either(_is_exif(head), orientation, 1)


def _segment(contents, offset):
    """A segment's marker, length and first six bytes of data, as 16-bit words: int64 [5]."""
    return numbers(contents, offset, 5, tf.uint16)


def _next_segment(contents, offset, head):
    # Any number of 0xFF bytes may precede a marker.
    offset += either(head[0] == 0xFFFF, 1, 2 + head[1])
    return [offset, _segment(contents, offset)]


def _is_metadata(head):
    """Whether a segment is application data (APP0 to APP15), a comment, or padding."""
    return (head[0] >= 0xFFE0) & ((head[0] < 0xFFF0) | (head[0] >= 0xFFFE))


def _is_exif(head):
    """Whether a segment is APP1 and its data begin with "Exif", whatever its length."""
    return tf.reduce_all((head == [0xFFE1, 0, 0x4578, 0x6966, 0]) | _LENGTH)


class BmpFacts(NamedTuple):
    """Facts from the header of a BMP.

    Attributes:
      size: height and width, int64 [2].
      transparent: whether there is an alpha channel, bool.
      indexed: whether pixels are 8-bit indices into a palette, bool.
      palette: the palette's colours, 4 bytes each: blue, green, red, 0; scalar string.
      readable: whether pixels are stored in the layout that TensorFlow assumes, bool.
    """

    size: tf.Tensor
    transparent: tf.Tensor
    indexed: tf.Tensor
    palette: tf.Tensor
    readable: tf.Tensor


def bmp_facts(contents: tf.Tensor) -> BmpFacts:
    """Reads the fields of a BMP's header that TensorFlow ignores."""
    end, header = tf.unstack(numbers(contents, 10, 2, tf.int32, False))
    bits = numbers(contents, 28, 1, tf.uint16, False)[0]
    compression = numbers(contents, 30, 1, tf.int32, False)[0]
    masks = numbers(contents, 54, 4, tf.int32, False)
    # Masks say where each colour is; these ask for the same layout as a BMP without masks.
    plain = (compression == 3) & (bits == 32)
    plain &= tf.reduce_all(masks[:3] == [0xFF0000, 0xFF00, 0xFF])
    size = numbers(contents, 18, 2, tf.int32, big_endian=False)[::-1]
    # A BMP stored from top to bottom has a negative height, in two's complement.
    size = tf.where(size < [2**31, 2**32], size, 2**32 - size)
    return BmpFacts(
        size,
        plain & (header >= 56) & (masks[3] == 0xFF000000),
        bits == 8,
        piece(contents, 14 + header, end - 14 - header),
        plain | (compression == 0),
    )
