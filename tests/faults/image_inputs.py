"""Image files of every kind that can be decoded, intact and damaged."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from tests.faults.flag_inputs import damaged
from tests.faults.harness import Fault
from tf_simclr.data.bad_images import READ_ERRORS
from tf_simclr.data.decoding import MAX_PIXELS, decode
from tf_simclr.data.headers import image_size
from tf_simclr.errors import UserError

SIDES = (0, 1, 7, 255, 256, 4096, 10_000, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@functools.cache
def whole_images() -> tuple[bytes, ...]:
    """Small images of every format and colour type."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, [11, 9, 3], np.uint8))
    made = []

    def add(image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        made.append(buffer.getvalue())

    add(rgb, "JPEG")
    add(rgb, "JPEG", progressive=True, comment=b"a comment")
    add(rgb.convert("L"), "JPEG")
    add(rgb.convert("CMYK"), "JPEG")
    add(rgb.resize((1, 1)), "JPEG")
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        image = Image.fromarray(np.array(rgb.convert("L"), np.uint16) * 257)
        add(image if mode == "I;16" else rgb.convert(mode), "PNG")
    add(rgb.convert("P"), "PNG", transparency=3)
    add(rgb.convert("P"), "GIF")
    frames = [rgb.rotate(90 * i).convert("P") for i in range(3)]
    add(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0)
    for mode in ("RGB", "L", "P", "1"):
        add(rgb.convert(mode), "BMP")
    exif = Image.Exif()
    for orientation in (0, 1, 3, 6, 7, 9):
        exif[0x0112] = orientation
        add(rgb, "JPEG", exif=exif)
        add(rgb, "PNG", exif=exif)
    add(rgb, "JPEG", exif=exif, icc_profile=b"a profile" * 50)
    for orientation in (2, 5, 8):
        made.append(_big_endian_exif(made[0], orientation))
    add(rgb.convert("L"), "PNG", transparency=9)
    add(rgb, "PNG", transparency=(1, 2, 3))
    add(rgb.convert("P"), "GIF", transparency=3, interlace=1)
    for frame in list(made):
        if frame[:2] == b"GI":  # Also with a canvas of 20 x 15, and with a place beyond it.
            made.append(frame[:6] + b"\x14\0\x0f\0" + frame[10:])
            made.append(frame.replace(b",\0\0\0\0", b",\x0f\0\4\0", 1))
    deep = np.array(rgb.convert("L"), np.uint16) * 16
    for bits in (9, 12, 16):
        contents = tf.io.encode_png(deep[..., np.newaxis]).numpy()
        made.append(_mended_png(contents[:33] + b"\0\0\0\1sBIT" + bytes([bits]) + contents[29:]))
    return tuple(made)


def _big_endian_exif(jpeg: bytes, orientation: int) -> bytes:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    data = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + entry + b"\0\0\0\0"
    return jpeg[:20] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + jpeg[20:]


def image_of(rng) -> bytes:
    """An image file, intact or damaged."""
    data = rng.choice(whole_images())
    kind = rng.random()
    if kind < 0.15:
        return data
    if kind < 0.35:
        return _with_sides(rng, data)
    if kind < 0.45:
        other = rng.choice(whole_images())
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    if kind < 0.6:
        return data[: rng.randrange(min(len(data), 64))]
    if kind < 0.65:
        return rng.choice((b"", b"\0" * 99, b"RIFF\0\0\0\0WEBP", b"II*\0", b"<svg/>", b"\xff\xd8"))
    data = damaged(rng, data, rng.choice((1, 1, 2, 5, 30)))
    return _mended_png(data) if rng.random() < 0.3 else data


def _with_sides(rng, data: bytes) -> bytes:
    """The same file with another width or height in the header."""
    side = rng.choice(SIDES)
    if data[:2] == b"\x89P":
        place = rng.choice((16, 20))
        return _mended_png(data[:place] + struct.pack(">I", side) + data[place + 4 :])
    if data[:2] == b"BM":
        place = rng.choice((10, 14, 18, 22, 28, 46))
        return data[:place] + struct.pack("<I", side) + data[place + 4 :]
    if data[:2] == b"GI":
        place = rng.choice((6, 8))
        return data[:place] + struct.pack("<H", side % 2**16) + data[place + 2 :]
    starts = [data.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2")]
    place = max(starts) + rng.choice((5, 7))
    return data[:place] + struct.pack(">H", side % 2**16) + data[place + 2 :]


def _mended_png(data: bytes) -> bytes:
    """Corrects the checksums, so that damage reaches the decoder."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    done, place = data[:8], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        if place + 12 + length > len(data):
            break
        done += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return done + data[place:]


@functools.cache
def _decoder(channels: int):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decoder(data):
        image = decode(data, channels)
        # In sequence, as in the pipeline: in parallel, an error in one is sometimes (once in some
        # hundred times) reported as a cancelled loop of the other.
        with tf.control_dependencies([image]):
            return image_size(tf.identity(data)), image

    return decoder


def try_image(data: bytes, channels: int) -> None:
    """Decodes in a graph, as in the pipeline."""
    try:
        sides, image = _decoder(channels)(data)
    except READ_ERRORS as error:
        raise UserError(error.message) from error  # `find_bad_images` skips this error.
    if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] != channels:
        raise Fault(f"decoded to {image.dtype} {image.shape}")
    if int(tf.size(image)) > MAX_PIXELS * channels:
        raise Fault(f"decoded to {image.shape}, beyond the limit, where the header says {sides}")
    # A damaged JPEG can have two headers; the decoder uses the later one.
    if data[:2] != b"\xff\xd8" and list(sides) != image.shape[:2]:
        raise Fault(f"decoded to {image.shape}, where the header says {sides}")
