"""Decoding of all kinds of image files to uint8 with given channels, eagerly and in a data set."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.data import decoding
from tf_simclr.data.decoding import decode, to_grey
from tf_simclr.data.headers import image_size

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

# Smooth, so that JPEG and palettes preserve it; each channel has its own slope; not square.
Y, X = np.mgrid[0:24, 0:36]
PIXELS = np.stack([Y * 8 + 20, X * 6 + 10, 250 - X * 3 - Y * 4], -1).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)
GREY = PICTURE.convert("L")


def stored(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


CASES = {
    "jpeg": (stored(PICTURE, "JPEG", quality=95), False, 12),
    "progressive jpeg": (stored(PICTURE, "JPEG", quality=95, progressive=True), False, 12),
    "grey jpeg": (stored(GREY, "JPEG", quality=95), True, 6),
    "cmyk jpeg": (stored(PICTURE.convert("CMYK"), "JPEG", quality=95), False, 12),
    "png": (stored(PICTURE, "PNG"), False, 0),
    "grey png": (stored(GREY, "PNG"), True, 0),
    "transparent png": (stored(PICTURE.convert("RGBA"), "PNG"), False, 0),
    "grey transparent png": (stored(GREY.convert("LA"), "PNG"), True, 0),
    "16-bit png": (tf.io.encode_png(PIXELS.astype(np.uint16) * 257).numpy(), False, 0),
    "16-bit grey png": (
        tf.io.encode_png(np.asarray(GREY)[..., None].astype(np.uint16) * 257).numpy(),
        True,
        0,
    ),
    "gif": (stored(PICTURE, "GIF"), False, 40),
    "animated gif": (
        stored(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(180), GREY]),
        False,
        40,
    ),
    "bmp": (stored(PICTURE, "BMP"), False, 0),
    "grey bmp": (stored(GREY, "BMP"), True, 0),
    "palette bmp": (stored(PICTURE.convert("P", palette=Image.ADAPTIVE), "BMP"), False, 40),
    "32-bit bmp": (stored(PICTURE.convert("RGBA"), "BMP"), False, 0),
}


def in_dataset(function, contents):
    return next(iter(tf.data.Dataset.from_tensors(contents).map(function))).numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_decodes(case, channels):
    contents, is_grey, tolerance = CASES[case]
    grey = np.asarray(GREY)[..., None]
    expected = grey if channels == 1 else np.repeat(grey, 3, -1) if is_grey else PIXELS
    image = decode(tf.constant(contents), channels)
    assert image.dtype == tf.uint8
    assert image.shape == (24, 36, channels)
    error = np.abs(image.numpy().astype(int) - expected)
    assert error.max() <= tolerance + 1  # 1: rounding of the luma.
    assert error.mean() <= tolerance / 3 + 0.7
    np.testing.assert_array_equal(image_size(tf.constant(contents)), [24, 36])


@pytest.mark.parametrize("channels", [1, 3])
def test_decodes_the_same_in_a_data_set(channels):
    files = [contents for contents, _, _ in CASES.values()]
    dataset = tf.data.Dataset.from_tensor_slices(files)
    dataset = dataset.map(lambda c: (decode(c, channels), image_size(c)))
    for contents, (image, size) in zip(files, dataset):
        np.testing.assert_array_equal(image, decode(tf.constant(contents), channels))
        np.testing.assert_array_equal(size, [24, 36])


@functools.cache
def _decoder(channels):
    function = lambda c: (decode(c, channels), image_size(c))  # noqa: E731
    return tf.function(function, input_signature=[tf.TensorSpec([], tf.string)])


def decoded(contents, channels=3):
    """Decodes in a graph, and checks that the size in the header is that of the pixels."""
    image, size = _decoder(channels)(contents)
    np.testing.assert_array_equal(size, image.shape[:2])
    return image.numpy()


def tiff(entries=(), big_endian=False, magic=42, offset=8):
    """EXIF data of (tag, type, count, value) with 16-bit values."""
    order = ">" if big_endian else "<"
    data = (b"MM" if big_endian else b"II") + struct.pack(order + "HI", magic, offset)
    data += b"\0" * (offset - 8) + struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack(order + "HHIHH", tag, kind, count, value, 0)
    return data + b"\0\0\0\0"


def oriented(orientation, **options):
    others = [(0x010F, 2, 4, 7), (0x0112, 3, 1, orientation), (0x0128, 3, 1, 2)]
    return tiff(others, **options)


def with_segments(contents, *segments):
    """A JPEG with segments (marker, data) inserted before all others."""
    parts = (struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return contents[:2] + b"".join(parts) + contents[2:]


def with_chunks(contents, *chunks, at=33):
    """A PNG with chunks (name, data) inserted after its header, or at `at`."""
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return contents[:at] + b"".join(parts) + contents[at:]


def upright(contents, mode="RGB"):
    """The image as Pillow decodes it, upright."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert(mode))


JPEG = CASES["jpeg"][0]
JFIF, AFTER_JFIF = JPEG[:20], JPEG[:2] + JPEG[20:]
ICC = (0xE2, b"ICC_PROFILE\0\1\1" + b"\xff\xe1" * 800)
XMP = (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
BLOCK = (0xED, b"Photoshop 3.0\0" + b"Exif\0\0" * 20)
IN_FRONT = {
    "first": (),
    "behind JFIF": ((0xE0, JFIF[6:]),),
    "behind ICC": (ICC,),
    "behind XMP": ((0xE0, JFIF[6:]), XMP),
    "behind many": ((0xE0, JFIF[6:]), (0xFE, b"a comment"), *(ICC,) * 9, XMP, BLOCK),
}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_images(orientation, big_endian):
    exif = oriented(orientation, big_endian=big_endian, offset=8 + 2 * orientation)
    jpeg = with_segments(AFTER_JFIF, (0xE1, b"Exif\0\0" + exif))
    png = with_chunks(CASES["png"][0], (b"eXIf", exif))
    for contents in (jpeg, png):
        expected = upright(contents)
        for channels in (1, 3):
            image = decoded(contents, channels).astype(int)
            assert image.shape == (*expected.shape[:2], channels)
            assert image.shape[0] == (36 if orientation > 4 else 24)
            if channels == 3:
                assert np.abs(image - expected).max() <= 12
    np.testing.assert_array_equal(decoded(png), expected)
    np.testing.assert_array_equal(decode(tf.constant(png), 3), expected)


@pytest.mark.parametrize("case", IN_FRONT)
def test_exif_is_found_behind_other_segments(case):
    exif = (0xE1, b"Exif\0\0" + oriented(6))
    contents = with_segments(AFTER_JFIF, *IN_FRONT[case], exif)
    expected = np.rot90(decoded(JPEG), -1)
    np.testing.assert_array_equal(decoded(contents), expected)
    np.testing.assert_array_equal(decode(tf.constant(contents), 3), expected)
    # Any number of 0xFF bytes may precede a marker.
    place = contents.index(b"\xff\xe1" + struct.pack(">H", len(exif[1]) + 2) + b"Exif")
    filled = contents[:place] + b"\xff" * 3 + contents[place:]
    np.testing.assert_array_equal(decoded(filled), expected)


@pytest.mark.parametrize("chunk", [100, 333, 10_000])
@pytest.mark.parametrize("rows", [24, 200])
def test_exif_of_a_png_is_found_behind_its_pixels(chunk, rows):
    noise = np.random.default_rng(0).integers(0, 256, [rows, 9, 3], np.uint8)
    contents = tf.io.encode_png(noise).numpy()
    start = contents.index(b"IDAT") - 4
    pixels = contents[start + 8 : contents.index(b"IEND") - 8]
    pieces = [(b"IDAT", pixels[i : i + chunk]) for i in range(0, len(pixels), chunk)]
    for end in ([(b"eXIf", oriented(8))], [(b"tEXt", b"a\0b" * 99), (b"eXIf", oriented(8))]):
        whole = with_chunks(contents[:start] + contents[-12:], *pieces, *end, at=start)
        np.testing.assert_array_equal(decoded(whole), np.rot90(noise))


BROKEN_EXIF = {
    "empty": b"",
    "header only": oriented(6)[:8],
    "cut": oriented(6)[:20],
    "orientation 0": oriented(0),
    "orientation 9": oriented(9),
    "orientation 65535": oriented(65535),
    "another byte order": b"XX" + oriented(6)[2:],
    "another magic": oriented(6, magic=43),
    "directory beyond the end": oriented(6)[:4] + b"\xff\xff\xff\xff" + oriented(6)[8:],
    "more entries than bytes": oriented(9)[:8] + b"\xff\xff" + oriented(9)[10:],
    "no entries": tiff(),
    "another type": tiff([(0x0112, 2, 1, 6)]),
    "many values": tiff([(0x0112, 3, 9, 6)]),
    "not there": tiff([(0x0113, 3, 1, 6)]),
}


def test_exif_behind_the_tables_is_ignored_by_all():
    """It does not belong there. What matters is that size and pixels agree."""
    exif = struct.pack(">BBH", 0xFF, 0xE1, len(oriented(6)) + 8) + b"Exif\0\0" + oriented(6)
    place = JPEG.index(b"\xff\xc0")  # The frame's header.
    contents = JPEG[:place] + exif + JPEG[place:]
    np.testing.assert_array_equal(decoded(contents), decoded(JPEG))


@pytest.mark.parametrize("case", BROKEN_EXIF)
def test_ignores_damaged_exif(case):
    exif = BROKEN_EXIF[case]
    jpeg = with_segments(AFTER_JFIF, (0xE1, b"Exif\0\0" + exif))
    np.testing.assert_array_equal(decoded(jpeg), decoded(JPEG))
    png = with_chunks(CASES["png"][0], (b"eXIf", exif))
    np.testing.assert_array_equal(decoded(png), PIXELS)


@pytest.mark.parametrize("length", [0, 1, 2, 9, 60_000])
def test_segments_that_are_cut_off_are_no_endless_loop(length):
    for segments in (1, 700):
        segment = b"\xff\xe1" + struct.pack(">H", length) + b"Exif\0\0"
        with contextlib.suppress(tf.errors.InvalidArgumentError):  # It ends inside a segment.
            image_size(tf.constant(JPEG[:2] + segment * segments + JPEG[2:]))
    chunk = struct.pack(">I", 2**32 - length - 1) + b"tRNS"
    image_size(tf.constant(CASES["png"][0][:33] + chunk * 50))


def gif_of(picture, left, top, screen, transparent=None, interlaced=False, local=False):
    """A GIF with one frame at (left, top) of a canvas of size `screen`."""
    contents = stored(picture, "GIF", interlace=interlaced)
    palette = contents[13 : 13 + 768] if contents[10] >= 128 else b""
    start = contents.index(b",\0\0\0\0", 13 + len(palette))
    flags = contents[start + 9]
    head = contents[:6] + struct.pack("<HH", *screen)
    control = b"" if transparent is None else b"!\xf9\4\1\0\0" + bytes([transparent]) + b"\0"
    frame = b"," + struct.pack("<HH", left, top) + contents[start + 5 : start + 9]
    pixels = contents[start + 10 :]
    if local:
        other = bytes(255 - b for b in palette)
        return (
            head + b"\xf7\0\0" + other + control + frame + bytes([flags | 0x87]) + palette + pixels
        )
    return head + b"\xf7\0\0" + palette + control + frame + bytes([flags]) + pixels


INDICES = np.random.default_rng(1).integers(0, 256, [24, 36], np.uint8)
INDICES.flat[:256] = range(256)  # Pillow renumbers palettes with unused colours.
COLOURS = np.random.default_rng(2).integers(0, 256, [256, 3], np.uint8)
PALETTED = Image.fromarray(INDICES, "P")
PALETTED.putpalette(COLOURS.tobytes())


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [None, 0, 17, 255])
@pytest.mark.parametrize(
    "place",
    [(0, 0, (36, 24)), (5, 7, (50, 60)), (0, 9, (36, 33)), (30, 20, (36, 24)), (3, 0, (0, 0))],
    ids=str,
)
def test_a_gif_is_its_canvas(place, transparent, interlaced, local):
    left, top, screen = place
    contents = gif_of(PALETTED, left, top, screen, transparent, interlaced, local)
    picture = Image.open(io.BytesIO(contents)).convert("RGBA")
    colours = COLOURS.copy()
    if transparent is not None:
        colours[transparent] = 255
    canvas = np.full([max(screen[1], top + 24), max(screen[0], left + 36), 3], 255, np.uint8)
    canvas[top : top + 24, left : left + 36] = colours[INDICES]
    np.testing.assert_array_equal(decoded(contents), canvas)
    if 0 not in screen:
        assert picture.size == canvas.shape[1::-1]
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        frame = np.asarray(white)[top : top + 24, left : left + 36, :3]
        np.testing.assert_array_equal(frame, canvas[top : top + 24, left : left + 36])
    grey = decoded(contents, 1)
    np.testing.assert_array_equal(grey, to_grey(tf.constant(canvas)))


def test_a_gif_may_be_transparent_beyond_its_palette():
    contents = gif_of(PALETTED, 0, 0, (36, 24), transparent=200)
    short = contents[:10] + b"\xf0\0\0" + contents[13:19] + contents[13 + 768 :]
    image = decoded(short)
    assert (image[INDICES == 200] == 255).all()
    np.testing.assert_array_equal(image[INDICES < 2], COLOURS[INDICES[INDICES < 2]])


def test_a_gif_without_a_frame_has_no_size():
    for contents in (CASES["gif"][0][:781] + b";", CASES["gif"][0][:13], b"GIF89a"):
        np.testing.assert_array_equal(image_size(tf.constant(contents)), [0, 0])
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(tf.constant(contents), 3)


RNG = np.random.default_rng(3)
RGBA = RNG.integers(0, 256, [24, 36, 4], np.uint8)
RGBA[:8, :, 3], RGBA[8:16, :, 3] = 0, 255
ALPHA = RNG.integers(0, 256, 256, np.uint8)
BMP_MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def bmp_of(rgba, compression=3, masks=BMP_MASKS):
    """A 32-bit BMP with a version 4 header."""
    pixels = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack(
        "<IiiHHIIiiII", 108, rgba.shape[1], rgba.shape[0], 1, 32, compression, len(pixels), *[0] * 4
    )
    header += masks + b"BGRs" + b"\0" * 48
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 122) + header + pixels


def png16(values, *chunks):
    return with_chunks(tf.io.encode_png(values.astype(np.uint16)).numpy(), *chunks)


TRANSPARENT = {
    "rgba png": stored(Image.fromarray(RGBA), "PNG"),
    "grey and alpha png": stored(Image.fromarray(RGBA[..., 2:], "LA"), "PNG"),
    "palette png, a colour": stored(PALETTED, "PNG", transparency=7),
    "palette png, alphas": stored(PALETTED, "PNG", transparency=ALPHA.tobytes()),
    "grey png, a level": stored(Image.fromarray(INDICES // 32), "PNG", transparency=3),
    "rgb png, a colour": stored(
        Image.fromarray(RGBA[..., :3] // 128), "PNG", transparency=(1, 0, 1)
    ),
    "bmp with masks": bmp_of(RGBA),
}


@pytest.mark.parametrize("case", TRANSPARENT)
def test_transparency_is_blended_over_white(case):
    contents = TRANSPARENT[case]
    picture = Image.open(io.BytesIO(contents)).convert("RGBA")
    rgba = np.asarray(picture).astype(int)
    assert 0 < (rgba[..., 3] == 255).mean() < 1
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    expected = np.asarray(white.convert("RGB")).astype(int)
    image = decoded(contents).astype(int)
    assert np.abs(image - expected).max() <= 1
    opaque, hidden = rgba[..., 3] == 255, rgba[..., 3] == 0
    np.testing.assert_array_equal(image[opaque], rgba[opaque, :3])
    assert (image[hidden] == 255).all()
    exact = (rgba[..., :3] * rgba[..., 3:] + 255 * (255 - rgba[..., 3:])) / 255
    np.testing.assert_array_equal(image, np.rint(exact))
    np.testing.assert_array_equal(decoded(contents, 1), to_grey(tf.constant(image, tf.uint8)))
    np.testing.assert_array_equal(decode(tf.constant(contents), 3), image)
    if case != "bmp with masks":
        np.testing.assert_array_equal(decoded(contents, 4), rgba)


FEW_BITS = {
    "1 bit": Image.fromarray(INDICES).convert("1", dither=0),
    "2 colours": Image.fromarray(RGBA[..., :3]).quantize(2),
    "4 colours": Image.fromarray(RGBA[..., :3]).quantize(4),
    "16 colours": Image.fromarray(RGBA[..., :3]).quantize(16),
    "256 colours": PALETTED,
    "grey": Image.fromarray(INDICES),
}


@pytest.mark.parametrize("case", FEW_BITS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_few_bits_with_exif_are_opaque(case, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    contents = stored(FEW_BITS[case], "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(contents), upright(contents))


@pytest.mark.parametrize("length", [2, 8, 20, 36, 37, 40])
def test_a_png_that_ends_in_its_header_is_an_error_in_words(length):
    for contents in (CASES["png"][0][:length], b"\x89P" + b"\xff" * length):
        for function in (functools.partial(decode, channels=3), image_size):
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                in_dataset(function, contents)


def test_blending_16_bits():
    values = RNG.integers(0, 2**16, [24, 36, 4])
    values[:8, :, 3], values[8:16, :, 3] = 0, 2**16 - 1
    image = decoded(png16(values)).astype(int)
    alpha = values[..., 3:] / 65535
    expected = (values[..., :3] * alpha + 65535 * (1 - alpha)) / 257
    assert np.abs(image - expected).max() <= 2  # 8 bits of each sample are kept.
    np.testing.assert_array_equal(image[8:16], values[8:16, :, :3] // 256)
    assert (image[:8] == 255).all()
    colour = struct.pack(">3H", *values[20, 5, :3])
    image = decoded(png16(values[..., :3], (b"tRNS", colour)))
    expected = values[..., :3] // 256
    expected[20, 5] = 255
    np.testing.assert_array_equal(image, expected)


def test_the_fourth_byte_of_a_bmp_may_be_nothing():
    """Without masks that byte is unused, and usually 0."""
    blank = RGBA.copy()
    blank[..., 3] = 0
    no_alpha = BMP_MASKS[:12] + b"\0\0\0\0"
    for contents in (stored(Image.fromarray(blank), "BMP"), bmp_of(blank, masks=no_alpha)):
        np.testing.assert_array_equal(decoded(contents), blank[..., :3])


def test_refuses_bmps_that_would_come_out_wrong():
    swapped = BMP_MASKS[8:12] + BMP_MASKS[4:8] + BMP_MASKS[:4] + BMP_MASKS[12:]
    for contents in (bmp_of(RGBA, masks=swapped), bmp_of(RGBA, compression=1)):
        for channels in (1, 3):
            with pytest.raises(tf.errors.InvalidArgumentError, match="BMP that is compressed"):
                decoded(contents, channels)


@pytest.mark.parametrize("planes", [1, 3, 4])
@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_significant_bits(bits, planes):
    values = RNG.integers(0, 2**bits, [24, 36, planes])
    values[..., 3:] = 2**bits - 1  # Opaque.
    claim = (b"sBIT", bytes([bits] * planes))
    expected = np.broadcast_to((values >> (bits - 8))[..., :3], [24, 36, 3])
    np.testing.assert_array_equal(decoded(png16(values, claim)), expected)
    np.testing.assert_array_equal(decode(tf.constant(png16(values, claim)), 3), expected)
    # As PNG requires, samples are scaled: by zeros, by repeating the upper bits, or exactly.
    shift = 16 - bits
    for dark in (1, 2 ** (bits - 6), 2**bits - 1):
        low = np.minimum(values, dark)
        low[..., 3:] = 2**bits - 1
        for scaled in (low << shift, low << shift | low >> (bits - shift)):
            if planes == 4:
                scaled[..., 3:] = 2**16 - 1
            image = decoded(png16(scaled, claim))
            expected = np.broadcast_to((scaled >> 8)[..., :3], [24, 36, 3])
            np.testing.assert_array_equal(image, expected)


def test_significant_bits_of_8_change_nothing():
    contents = with_chunks(CASES["png"][0], (b"sBIT", b"\5\6\5"))
    np.testing.assert_array_equal(decoded(contents), PIXELS)
    values = PIXELS.astype(int) * 257
    np.testing.assert_array_equal(decoded(png16(values, (b"sBIT", b"\x10\x10\x10"))), PIXELS)
    np.testing.assert_array_equal(decoded(png16(values // 16)), values // 16 // 256)


def test_later_pictures_of_a_file_are_left_out():
    others = [PICTURE.rotate(180)]
    mpo = stored(PICTURE, "MPO", save_all=True, append_images=others, quality=95)
    apng = stored(PICTURE, "PNG", save_all=True, append_images=others)
    np.testing.assert_array_equal(decoded(mpo), decoded(JPEG))
    np.testing.assert_array_equal(decoded(apng), PIXELS)


def test_has_static_channels_in_graphs():
    dataset = tf.data.Dataset.from_tensors(b"").map(lambda c: decode(c, 3))
    assert dataset.element_spec.shape.as_list() == [None, None, 3]


def test_four_channels():
    transparent = np.concatenate([PIXELS, np.full([24, 36, 1], 77, np.uint8)], -1)
    image = decode(tf.io.encode_png(transparent), 4)
    np.testing.assert_array_equal(image, transparent)


def test_grey_stays_as_it_was():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(to_grey(tf.constant(np.repeat(levels, 3, -1))), levels)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"B",
        b"hello, this is no image",
        CASES["jpeg"][0][:-30],
        CASES["jpeg"][0][:15],
        CASES["progressive jpeg"][0][:-30],
        CASES["png"][0][:-30],
        CASES["png"][0][:18],
        CASES["gif"][0][:12],
        CASES["palette bmp"][0][:200],
        CASES["bmp"][0][:30],
    ],
    ids=lambda contents: f"{contents[:4]}-{len(contents)}",
)
@pytest.mark.parametrize("channels", [1, 3])
def test_damage_is_an_error(contents, channels):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(contents), channels)


def test_refuses_giants_before_decoding(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 24 * 36 - 1)
    for case in ("jpeg", "png", "gif", "bmp"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100,000,000 pixels"):
            decode(tf.constant(CASES[case][0]), 3)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 24 * 36)
    decode(tf.constant(CASES["png"][0]), 3)
