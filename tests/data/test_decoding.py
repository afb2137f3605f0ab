"""Image files of every kind, to uint8 with the channels asked for; eagerly and in a data set."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.data import decoding
from tf_simclr.data.decoding import decode, to_grey
from tf_simclr.data.headers import image_size

Image = pytest.importorskip("PIL.Image")

# Smooth, so that JPEG and palettes keep it, with another slope in every channel; not square.
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
    assert error.max() <= tolerance + 1  # 1: what rounding of the luma may differ by.
    assert error.mean() <= tolerance / 3 + 0.7
    np.testing.assert_array_equal(in_dataset(lambda c: decode(c, channels), contents), image)
    np.testing.assert_array_equal(image_size(tf.constant(contents)), [24, 36])
    np.testing.assert_array_equal(in_dataset(image_size, contents), [24, 36])


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
