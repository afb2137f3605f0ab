"""What the headers of image files (JPEG, PNG, GIF, BMP) say, read in the graph without decoding.

Any file may be damaged: bytes beyond its end read as zeros, and every loop has a limit.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_MAGIC = (b"", b"\xff\xd8", b"\x89P", b"GI", b"BM")
JPEG, PNG, GIF, BMP = range(1, 5)

# Limits for loops over what a file repeats; encoders stay far below them.
_MAX_SEGMENTS = 500  # Of a JPEG: an ICC profile takes up to 255.
_MAX_CHUNKS = 100_000  # Of a PNG: an encoder may write one for every 8 KiB.
_MAX_EXTENSIONS = 20  # Of a GIF, before its first frame.
_MAX_EXTENSION, _MAX_FRAME = 20_000, 500_000  # In pieces of up to 255 bytes.

# How most JPEGs begin, in words of 16 bits by their place: start of image, a JFIF segment of 16
# bytes, quantization tables.
_PLAIN_JPEG = {0: 0xFFD8, 1: 0xFFE0, 2: 16, 10: 0xFFDB}
_ORIENTATION, _SHORT = 0x0112, 3  # A tag of EXIF, and the type that its value must have.


def format_of(contents: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, GIF or BMP by the first two bytes, else 0: int32 scalar."""
    matches = tf.strings.substr(contents, 0, 2) == tf.constant(_MAGIC)
    return tf.argmax(matches, output_type=tf.int32)


def is_plain_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Whether this is a JPEG without metadata before its tables, where EXIF would stand: bool.

    Most JPEGs pass this test of a few operations, and need no walk through their segments.
    """
    words = tf.io.decode_raw(
        tf.strings.substr(contents, 0, 22), tf.uint16, little_endian=False, fixed_length=22
    )
    expected = tf.constant([_PLAIN_JPEG.get(i, 0) for i in range(11)], tf.uint16)
    ignored = tf.constant([i not in _PLAIN_JPEG for i in range(11)])
    return tf.reduce_all((words == expected) | ignored)


def image_size(contents: tf.Tensor) -> tf.Tensor:
    """Height and width of what `decoding.decode` returns, from the header alone.

    Args:
      contents: scalar string, an image file.

    Returns:
      int64 [2]; [0, 0] for anything but JPEG, PNG, GIF and BMP, and for a GIF without a frame.
      An image that EXIF says is stored on its side has its height and width swapped. A GIF has
      the size of its canvas.
    """

    def jpeg():
        size = tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64)
        return _turned(size, jpeg_orientation(contents))

    def png():
        facts = png_facts(contents)
        return _turned(facts.size, facts.orientation)

    def gif():
        return gif_frame(contents).canvas

    def bmp():
        size = _numbers(contents, 18, 2, tf.int32, big_endian=False)[::-1]
        # A BMP stored top down has a negative height, in two's complement.
        return tf.where(size < [2**31, 2**32], size, 2**32 - size)

    def unknown():
        return tf.zeros([2], tf.int64)

    return tf.switch_case(format_of(contents), [unknown, jpeg, png, gif, bmp])


def _turned(size, orientation):
    return tf.where(orientation > 4, size[::-1], size)


def jpeg_orientation(contents: tf.Tensor) -> tf.Tensor:
    """EXIF orientation of a JPEG, int64 scalar from 1 to 8; 1 where none or a damaged one is."""
    first = tf.constant(2, tf.int64)

    def walk():
        place, segment = tf.while_loop(
            lambda place, segment: _goes_before_scan(segment) & ~_is_exif(segment),
            lambda place, segment: _next_segment(contents, place, segment),
            [first, _segment(contents, first)],
            maximum_iterations=_MAX_SEGMENTS,
        )
        return tf.cond(
            _is_exif(segment),
            lambda: _exif_orientation(_piece(contents, place + 10, segment[1] - 8)),
            lambda: tf.constant(1, tf.int64),
        )

    return tf.cond(is_plain_jpeg(contents), lambda: tf.constant(1, tf.int64), walk)


def _segment(contents, place):
    """Marker, length, and the first six bytes of a segment's data, as words: int64 [5]."""
    return _numbers(contents, place, 5, tf.uint16)


def _next_segment(contents, place, segment):
    # A marker may be preceded by any number of bytes 0xFF.
    step = _either(segment[0] == 0xFFFF, 1, 2 + tf.maximum(segment[1], 2))
    return [place + step, _segment(contents, place + step)]


def _goes_before_scan(segment):
    """Whether it is a marker other than start of image, end of image and start of scan."""
    marker = segment[0]
    return (marker >= 0xFFC0) & ((marker < 0xFFD8) | (marker > 0xFFDA))


def _is_exif(segment):
    return tf.reduce_all(segment[2:] == [0x4578, 0x6966, 0]) & (segment[0] == 0xFFE1)  # "Exif\0\0"


def _exif_orientation(exif):
    """Of EXIF data, which is a TIFF header, a directory, and more; int64 scalar from 1 to 8."""
    header = tf.strings.substr(exif, 0, 4)
    big_endian = header == b"MM\0*"

    def numbers(place, count, dtype):
        both = (_numbers(exif, place, count, dtype, big_endian=big) for big in (True, False))
        return tf.where(big_endian, *both)

    directory = numbers(4, 1, tf.int32)[0]
    count = tf.maximum(numbers(directory, 1, tf.uint16)[0], 1)
    entries = tf.reshape(numbers(directory + 2, 6 * count, tf.uint16), [-1, 6])
    tag, kind, value = entries[:, 0], entries[:, 1], entries[:, 4]
    # Two words hold how many values there are; in either byte order one of them is 0.
    found = (tag == _ORIENTATION) & (kind == _SHORT) & (entries[:, 2] + entries[:, 3] == 1)
    orientation = tf.reduce_max(_either(found, value, 0))
    valid = (big_endian | (header == b"II*\0")) & (orientation >= 1) & (orientation <= 8)
    return _either(valid, orientation, 1)


class PngFacts(NamedTuple):
    """What the chunks of a PNG say.

    Attributes:
      size: height and width as stored, int64 [2].
      orientation: by EXIF, int64 from 1 to 8.
      transparent: whether there is an alpha channel or a transparent colour, bool.
      bits: of a sample, int64: 1, 2, 4, 8 or 16.
      significant: how many of those carry information, int64.
    """

    size: tf.Tensor
    orientation: tf.Tensor
    transparent: tf.Tensor
    bits: tf.Tensor
    significant: tf.Tensor


def png_facts(contents: tf.Tensor) -> PngFacts:
    """Walks through the chunks of a PNG, all of them: EXIF may stand behind the pixels."""
    bits, colours = tf.unstack(_numbers(contents, 24, 2, tf.uint8))
    names = {name: int.from_bytes(name.encode(), "big") for name in ("tRNS", "sBIT", "eXIf")}
    chunks = {name: tf.constant(0, tf.int64) for name in names}  # Where each begins; 0: nowhere.
    first = tf.constant(8, tf.int64)

    def head(place):
        """Length and name."""
        return _numbers(contents, place, 2, tf.int32)

    def step(place, current, chunks):
        chunks = {
            name: tf.where(current[1] == number, place, chunks[name])
            for name, number in names.items()
        }
        place += 12 + current[0]
        return [place, head(place), chunks]

    _, _, chunks = tf.while_loop(
        lambda place, current, chunks: current[1] != 0,
        step,
        [first, head(first), chunks],
        maximum_iterations=_MAX_CHUNKS,
    )

    def data(name):
        place = chunks[name]
        return _piece(contents, place + 8, _either(place > 0, head(place)[0], 0))

    significant = tf.reduce_max(_numbers(tf.strings.substr(data("sBIT"), 0, 4), 0, 4, tf.uint8))
    return PngFacts(
        _numbers(contents, 16, 2, tf.int32)[::-1],
        _exif_orientation(data("eXIf")),
        (colours == 4) | (colours == 6) | (chunks["tRNS"] > 0),
        bits,
        tf.where((significant > 0) & (significant < bits), significant, bits),
    )


class GifFrame(NamedTuple):
    """The first frame of a GIF.

    Attributes:
      file: a GIF of this frame alone, with its transparent colour made white; scalar string.
        Empty where there is no frame, or only behind more than encoders write.
      canvas: height and width of the image in which the frame stands, int64 [2].
      place: where it stands, top and left, int64 [2].
    """

    file: tf.Tensor
    canvas: tf.Tensor
    place: tf.Tensor


def gif_frame(contents: tf.Tensor) -> GifFrame:
    """Cuts the first frame out of a GIF: TensorFlow would decode all, and lose the frame's place.

    A GIF is a header, blocks, and ";". A block is "!" and a label (an extension), or "," with a
    place, a size and perhaps a palette (a frame); then pieces behind their lengths, the last empty.
    """
    zero = tf.constant(0, tf.int64)
    start, transparent = tf.while_loop(
        lambda place, transparent: _byte(contents, place) == ord("!"),
        lambda place, transparent: [
            _pieces_end(contents, place + 2, _MAX_EXTENSION),
            _transparent_colour(contents, place, transparent),
        ],
        [13 + 3 * _palette_size(_byte(contents, 10)), zero - 1],
        maximum_iterations=_MAX_EXTENSIONS,
    )
    left, top, width, height = tf.unstack(_numbers(contents, start + 1, 4, tf.uint16, False))
    screen = _numbers(contents, 6, 2, tf.uint16, False)[::-1]
    found = _byte(contents, start) == ord(",")

    def file():
        flags = _byte(contents, start + 9)
        pixels = start + 10 + 3 * _palette_size(flags)
        end = _pieces_end(contents, pixels + 1, _MAX_FRAME)
        size = _piece(contents, start + 5, 4)
        interlaced = tf.where(flags & 0x40 > 0, b"\x40", b"\0")
        parts = [
            *(_piece(contents, zero, 6), size, _white_palette(contents, start, transparent)),
            *(b",\0\0\0\0", size, interlaced, _piece(contents, pixels, end - pixels), b";"),
        ]
        return tf.strings.join(parts)

    return GifFrame(
        tf.cond(found, file, lambda: tf.constant(b"")),
        # Like browsers: a frame that reaches beyond the canvas makes it larger.
        _either(found, tf.maximum(screen, [top + height, left + width]), 0),
        tf.stack([top, left]),
    )


def _transparent_colour(contents, place, before):
    """Index of the transparent colour, if the extension at `place` sets one; else as before."""
    label, _, flags, _, _, index = tf.unstack(_numbers(contents, place + 1, 6, tf.uint8))
    return tf.where((label == 0xF9) & (flags & 1 > 0), index, before)


def _white_palette(contents, start, transparent):
    """What is between the size and the first frame of a GIF: flags and the palette of the frame.

    The transparent colour is white in it; the palette grows if it has no such colour.
    """
    own, shared = _byte(contents, start + 9), _byte(contents, 10)
    flags = tf.where(own >= 128, own, shared)  # Without any palette these have no bit 128 either.
    place, size = _either(own >= 128, start + 10, 13), _palette_size(flags)
    palette = _piece(contents, place, 3 * size)
    grows = transparent >= size
    palette = tf.strings.join([palette, tf.where(grows, b"\0" * 768, b"")])
    after = 3 * transparent + 3
    whitened = tf.strings.join(
        [_piece(palette, 0, after - 3), b"\xff\xff\xff", _piece(palette, after, 768)]
    )
    palette = _piece(tf.where(transparent >= 0, whitened, palette), 0, _either(grows, 768, 3 * size))
    code = _either(grows, 7, flags % 8)
    code = tf.gather([bytes([128 + n]) for n in range(8)], code)
    return tf.strings.join([tf.where(flags >= 128, code, b"\0"), b"\0\0", palette])


def _pieces_end(contents, place, most):
    """The place behind the last piece."""
    last = tf.while_loop(
        lambda place: _byte(contents, place) > 0,
        lambda place: [place + 1 + _byte(contents, place)],
        [place],
        maximum_iterations=most,
    )[0]
    return last + 1


def _palette_size(flags):
    return _either(flags >= 128, 2 ** (flags % 8 + 1), 0)


class BmpFacts(NamedTuple):
    """What the header of a BMP says.

    Attributes:
      transparent: whether there is an alpha channel, bool.
      indexed: whether pixels are indices of 8 bits into a palette, bool.
      palette: its colours, 4 bytes each: blue, green, red, 0; scalar string.
      readable: whether its pixels are stored as TensorFlow takes them to be, bool.
    """

    transparent: tf.Tensor
    indexed: tf.Tensor
    palette: tf.Tensor
    readable: tf.Tensor


def bmp_facts(contents: tf.Tensor) -> BmpFacts:
    """The fields of a BMP's header that TensorFlow ignores."""
    end, size = tf.unstack(_numbers(contents, 10, 2, tf.int32, False)[0:2])
    bits = _numbers(contents, 28, 1, tf.uint16, False)[0]
    compression = _numbers(contents, 30, 1, tf.int32, False)[0]
    masks = _numbers(contents, 54, 4, tf.int32, False)
    # Masks that say where each colour is, which here ask for the layout that there is without them.
    plain = (compression == 3) & (bits == 32)
    plain &= tf.reduce_all(masks[:3] == [0xFF0000, 0xFF00, 0xFF])
    return BmpFacts(
        plain & (size >= 56) & (masks[3] == 0xFF000000),
        bits == 8,
        _piece(contents, 14 + size, end - 14 - size),
        plain | (compression == 0),
    )


def _either(condition, yes, no):
    """tf.where of int64: it does not convert Python's integers to that by itself."""
    return tf.where(condition, tf.cast(yes, tf.int64), tf.cast(no, tf.int64))


def _byte(contents, place):
    """A byte as int64; 0 beyond the end."""
    return _numbers(contents, place, 1, tf.uint8)[0]


def _numbers(contents, place, count, dtype, big_endian=True):
    """Unsigned integers as int64 [count]; zeros beyond the end."""
    size = count * dtype.size
    values = tf.io.decode_raw(
        _piece(contents, place, size),
        dtype,
        little_endian=not big_endian,
        fixed_length=tf.cast(size, tf.int32),
    )
    values = tf.cast(tf.ensure_shape(values, [count if isinstance(count, int) else None]), tf.int64)
    return values % 2**32 if dtype == tf.int32 else values


def _piece(contents, place, size):
    """Some bytes, or fewer at the end."""
    # substr beyond the end makes an error with the file's bytes in its text, which Python cannot
    # read.
    end = tf.cast(tf.strings.length(contents), tf.int64)
    place, size = tf.cast(place, tf.int64), tf.maximum(tf.cast(size, tf.int64), 0)
    return tf.strings.substr(contents, tf.minimum(place, end), size)
