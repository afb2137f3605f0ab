"""What the headers of image files (JPEG, PNG, GIF, BMP) say, read in the graph without decoding.

Any file may be damaged: bytes beyond its end read as zeros, and every loop has a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_simclr.data.binary import either, numbers, piece
from tf_simclr.data.exif import exif_orientation
from tf_simclr.data.gif import gif_frame

_MAGIC = (b"", b"\xff\xd8", b"\x89P", b"GI", b"BM")
JPEG, PNG, GIF, BMP = range(1, 5)

# Limits for loops over what a file repeats; encoders stay far below them.
_MAX_SEGMENTS = 500  # Of a JPEG: an ICC profile takes up to 255.
_MAX_CHUNKS = 100_000  # Of a PNG: an encoder may write one for every 8 KiB.

# How most JPEGs begin, in words of 16 bits by their place: start of image, a JFIF segment of 16
# bytes, quantization tables.
_PLAIN_JPEG = {0: 0xFFD8, 1: 0xFFE0, 2: 16, 10: 0xFFDB}
_PIXELS = int.from_bytes(b"IDAT", "big")
_CHUNKS = (b"eXIf", b"sBIT", b"tRNS")  # Of a PNG: those that are looked for.
_FIRST_SEGMENTS = 4
_LENGTH = [False, True, False, False, False]  # Of the words of a segment, which one is its length.


def format_of(contents: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, GIF or BMP by the first two bytes, else 0: int32 scalar."""
    matches = tf.strings.substr(contents, 0, 2) == tf.constant(_MAGIC)
    return tf.argmax(matches, output_type=tf.int32)


def is_plain_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Whether this is a JPEG without EXIF data: bool scalar; False also where that is not certain.

    Most JPEGs have no metadata before their tables, which the first bytes show; EXIF data behind
    the tables, where they do not belong, are ignored. In the other JPEGs "Exif" is searched for,
    which takes less time than a walk through the segments.
    """
    jpeg = tf.strings.substr(contents, 0, 2) == _MAGIC[JPEG]
    return tf.cond(
        _begins_with_tables(contents),
        lambda: tf.constant(True),
        lambda: jpeg & ~_holds(contents, "Exif"),
    )


def is_plain_png(contents: tf.Tensor) -> tf.Tensor:
    """Whether a PNG's pixels need no change: bool scalar; False also where that is not certain.

    The chunks that could say otherwise stand before the pixels, but for EXIF data, which may
    stand behind them.
    """
    colours = numbers(contents, 25, 1, tf.uint8)[0]
    pixels_first = piece(contents, 37, 4) == b"IDAT"
    opaque = (colours == 0) | (colours == 2)  # Grey and RGB.
    return opaque & pixels_first & ~_holds(contents, "eXIf")


def _holds(contents, word):
    """Whether a word stands anywhere in a file. Only a replacement searches without a pattern."""
    without = tf.strings.regex_replace(contents, word, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(contents)


def _begins_with_tables(contents):
    words = tf.io.decode_raw(
        tf.strings.substr(contents, 0, 22), tf.uint16, little_endian=False, fixed_length=22
    )
    expected = tf.constant([_PLAIN_JPEG.get(i, 0) for i in range(11)], tf.uint16)
    ignored = tf.constant([i not in _PLAIN_JPEG for i in range(11)])
    return tf.reduce_all((words == expected) | ignored)


class ImageFacts(NamedTuple):
    """What changes how an image is shown.

    Attributes:
      size: height and width of what `decoding.decode` returns, int64 [2]; [0, 0] for anything but
        JPEG, PNG, GIF and BMP, and for a GIF without a frame.
      turned: whether EXIF says that it is stored turned or mirrored, bool.
      transparent: whether it has an alpha channel or a transparent colour, bool.
      deep: whether its samples have 16 bits, bool.
    """

    size: tf.Tensor
    turned: tf.Tensor
    transparent: tf.Tensor
    deep: tf.Tensor


@tf.autograph.experimental.do_not_convert  # It has nothing to convert, which takes long.
def image_facts(contents: tf.Tensor) -> ImageFacts:
    """Reads the header of an image file, a scalar string, without decoding.

    An image that EXIF says is stored on its side has its height and width swapped. A GIF has the
    size of its canvas.
    """
    no = tf.constant(False)

    def jpeg():
        size = tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64)
        facts = jpeg_facts(contents)
        annotated = facts.annotated & ~is_plain_jpeg(contents)  # As `decode` has it.
        one = tf.constant(1, tf.int64)
        orientation = tf.cond(annotated, facts.orientation, lambda: one)
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


class JpegFacts(NamedTuple):
    """What the segments of a JPEG say.

    Attributes:
      annotated: whether EXIF data may be there, bool; False: `orientation` is 1.
      orientation: a function that returns it as an int64 scalar from 1 to 8; 1 where no EXIF data
        are, or damaged ones.
    """

    annotated: tf.Tensor
    orientation: Callable[[], tf.Tensor]


def jpeg_facts(contents: tf.Tensor) -> JpegFacts:
    """Looks at the first segments of a JPEG; `orientation` then at more where it must."""
    place = tf.constant(2, tf.int64)
    segments = [[place, _segment(contents, place)]]
    # Without a loop, which costs more: few images have more segments in front of their tables.
    for _ in range(_FIRST_SEGMENTS - 1):
        segments.append(_next_segment(contents, *segments[-1]))
    places, heads = map(tf.stack, zip(*segments))
    exif = _is_exif(heads)

    def orientation():
        at = tf.argmax(exif)  # The first; 0 where none is.
        place, head = tf.cond(
            tf.reduce_any(exif),
            lambda: [places[at], heads[at]],
            lambda: _find_exif(contents, places[-1], heads[-1]),
        )
        value = exif_orientation(piece(contents, place + 10, head[1] - 8))
        return either(_is_exif(head), value, 1)

    return JpegFacts(tf.reduce_any(exif) | _is_metadata(heads[-1]), orientation)


def _find_exif(contents, place, head):
    """Place and head of the next segment with EXIF data; other ones where there is none."""
    return tf.while_loop(
        lambda place, head: _is_metadata(head) & ~_is_exif(head),
        lambda place, head: _next_segment(contents, place, head),
        [place, head],
        maximum_iterations=_MAX_SEGMENTS,
    )


def _segment(contents, place):
    """Marker, length, and the first six bytes of a segment's data, as words: int64 [5]."""
    return numbers(contents, place, 5, tf.uint16)


def _next_segment(contents, place, head):
    # A marker may be preceded by any number of bytes 0xFF.
    place += either(head[0] == 0xFFFF, 1, 2 + head[1])
    return [place, _segment(contents, place)]


def _is_metadata(head):
    """Whether the segment is one for applications, a comment, or fills up space."""
    return (head[0] >= 0xFFE0) & ((head[0] < 0xFFF0) | (head[0] >= 0xFFFE))


def _is_exif(heads):
    """Of words [..., 5]."""
    return tf.reduce_all((heads == [0xFFE1, 0, 0x4578, 0x6966, 0]) | _LENGTH, axis=-1)  # "Exif"


class PngFacts(NamedTuple):
    """What the chunks of a PNG say.

    Attributes:
      size: height and width as stored, int64 [2].
      orientation: a function that returns it, by EXIF, as an int64 scalar from 1 to 8.
      plain: whether `orientation` is 1, `transparent` False and `significant` is `bits`, bool.
      transparent: whether there is an alpha channel or a transparent colour, bool.
      bits: of a sample, int64: 1, 2, 4, 8 or 16.
      significant: how many of those carry information, int64.
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
    """Walks through the chunks of a PNG, all of them: EXIF may stand behind the pixels."""
    bits, colours = tf.unstack(numbers(contents, 24, 2, tf.uint8))
    names = tf.constant([int.from_bytes(name, "big") for name in _CHUNKS], tf.int64)

    def head(place):
        """Length and name."""
        return numbers(contents, place, 2, tf.int32)

    def step(place, current, found):
        found = tf.where(names == current[1], place, found)
        # Chunks of pixels are many, of the same size but for the last: they are passed in one leap
        # where that ends at such a chunk.
        size = 12 + current[0]
        leap = place + tf.maximum((end - place) // size, 1) * size
        pixels = (current[1] == _PIXELS) & (head(leap)[1] == _PIXELS)
        place = tf.where(pixels, leap, place + size)
        return [place, head(place), found]

    end = tf.cast(tf.strings.length(contents), tf.int64)
    first = tf.constant(8, tf.int64)
    _, _, found = tf.while_loop(
        lambda place, current, found: current[1] > 0,  # 0: the end.
        step,
        [first, head(first), tf.zeros_like(names)],
        maximum_iterations=_MAX_CHUNKS,
    )
    exif, bits_used, transparency = tf.unstack(found)  # Where each begins; 0: nowhere.

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


class BmpFacts(NamedTuple):
    """What the header of a BMP says.

    Attributes:
      size: height and width, int64 [2].
      transparent: whether there is an alpha channel, bool.
      indexed: whether pixels are indices of 8 bits into a palette, bool.
      palette: its colours, 4 bytes each: blue, green, red, 0; scalar string.
      readable: whether its pixels are stored as TensorFlow takes them to be, bool.
    """

    size: tf.Tensor
    transparent: tf.Tensor
    indexed: tf.Tensor
    palette: tf.Tensor
    readable: tf.Tensor


def bmp_facts(contents: tf.Tensor) -> BmpFacts:
    """The fields of a BMP's header that TensorFlow ignores."""
    end, header = tf.unstack(numbers(contents, 10, 2, tf.int32, False))
    bits = numbers(contents, 28, 1, tf.uint16, False)[0]
    compression = numbers(contents, 30, 1, tf.int32, False)[0]
    masks = numbers(contents, 54, 4, tf.int32, False)
    # Masks that say where each colour is, which here ask for the layout that there is without them.
    plain = (compression == 3) & (bits == 32)
    plain &= tf.reduce_all(masks[:3] == [0xFF0000, 0xFF00, 0xFF])
    size = numbers(contents, 18, 2, tf.int32, big_endian=False)[::-1]
    # A BMP stored top down has a negative height, in two's complement.
    size = tf.where(size < [2**31, 2**32], size, 2**32 - size)
    return BmpFacts(
        size,
        plain & (header >= 56) & (masks[3] == 0xFF000000),
        bits == 8,
        piece(contents, 14 + header, end - 14 - header),
        plain | (compression == 0),
    )
