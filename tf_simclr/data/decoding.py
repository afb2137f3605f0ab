"""Decodes image files (JPEG, PNG, GIF, BMP) to uint8 tensors, in the graph, as viewers show them.

The format is read from the contents, never from the name, which is often wrong.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tf_simclr.data import headers
from tf_simclr.data.gif import gif_frame
from tf_simclr.data.png import is_plain_png, png_facts, png_size

MAX_BYTES = 500_000_000  # Larger files count as bad: a file is read into memory whole.
MAX_PIXELS = (
    100_000_000  # Larger images count as bad: a header of a few bytes can ask for gigabytes.
)
_TOO_LARGE = f"an image of more than {MAX_PIXELS:,} pixels"
_BMP_KIND = "a BMP that is compressed, or stores its colours in another order"
_WHITE = 255  # The background of transparent pixels, as on most web pages.


@tf.autograph.experimental.do_not_convert  # Nothing to convert, and AutoGraph is slow to see that.
def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes one image, or the first frame of an animation.

    Grey, palette, 16-bit, transparent and CMYK images are all converted to the same channels.
    Images are rotated and mirrored as EXIF says. Transparency is blended over white, unless
    `channels` is 4. A GIF gives its whole canvas, white where the frame does not cover it. 16-bit
    samples keep their upper 8 bits; if a PNG says that fewer bits are significant (sBIT) and stores
    them in the lower bits, the upper 8 of those. Colour profiles and gamma are not applied.

    Args:
      contents: scalar string, an image file.
      channels: 1 (luma), 3 (RGB) or 4 (RGBA; PNG and 32-bit BMP only).

    Returns:
      uint8 [h, w, channels]; (h, w) is `image_size(contents)`.

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged, is not a JPEG, PNG, GIF or BMP, is a BMP
        that is compressed or stores its colours in another order, or exceeds `MAX_PIXELS`.
    """
    # Most images are JPEGs, so they skip the checks that other formats need. Those without EXIF
    # data also skip the walk through their segments.
    image = tf.cond(
        headers.is_plain_jpeg(contents),
        lambda: _decode_jpeg(contents, channels),
        lambda: _apart(_decode_other, channels)(contents),
    )
    return tf.ensure_shape(image, [None, None, channels])


def _apart(function, channels):
    """Makes a separate graph function: inlined operations cost time even if they do not run."""
    if tf.executing_eagerly():
        return functools.partial(function, channels=channels)
    return _traced_once(function, channels, MAX_PIXELS)


@functools.cache
def _traced_once(function, channels, max_pixels):
    """Cached, as tracing is slow and every data set needs it; the graph fixes `max_pixels`."""
    del max_pixels
    function = functools.partial(function, channels=channels)
    attributes = {"_noinline": True}
    return tf.function(function, autograph=False, experimental_attributes=attributes)


def _decode_jpeg(contents, channels):
    shape = tf.image.extract_jpeg_shape(contents)
    contents = _bounded(contents, shape[:2])
    if channels != 1:
        return _decode_image(contents, channels)
    # decode_image cannot convert CMYK to grey.
    return tf.cond(
        shape[2] == 4,
        lambda: to_grey(_decode_image(contents, 3)),
        lambda: _decode_image(contents, 1),
    )


def _decode_other(contents, channels):
    """Decodes anything but a plain JPEG."""
    # Indexed by `format_of`. For unknown formats decode_image reports the error.
    decoders = [_decode_image, _decode_jpeg_with_exif, _decode_png, _decode_gif, _decode_bmp]
    branches = [functools.partial(_apart(f, channels), contents) for f in decoders]
    return tf.switch_case(headers.format_of(contents), branches)


def _decode_jpeg_with_exif(contents, channels):
    image, orientation = _decode_jpeg(contents, channels), headers.jpeg_orientation(contents)
    return tf.cond(orientation > 1, lambda: _upright(image, orientation), lambda: image)


def _decode_png(contents, channels):
    return tf.cond(
        is_plain_png(contents),
        lambda: _decode_image(_bounded(contents, png_size(contents)), channels),
        lambda: _apart(_decode_special_png, channels)(contents),
    )


def _decode_special_png(contents, channels):
    contents = _bounded(contents, png_size(contents))
    facts = png_facts(contents)

    def special():
        rgba = tf.cond(
            (facts.bits == 16) & (facts.significant < 16),
            lambda: _decode_low_bits(contents, facts.significant),
            lambda: _decode_rgba(contents, facts.transparent),
        )
        image = rgba if channels == 4 else _over_white(rgba)
        return _upright(to_grey(image) if channels == 1 else image, facts.orientation())

    return tf.cond(facts.plain, lambda: _decode_image(contents, channels), special)


def _decode_rgba(contents, transparent):
    def opaque():
        # decode_image gives samples of 1, 2 and 4 bits an alpha of 2**bits - 1, which is not 255.
        rgb = _decode_image(contents, 3)
        return tf.pad(rgb, [[0, 0], [0, 0], [0, 1]], constant_values=255)

    return tf.cond(transparent, lambda: _decode_image(contents, 4), opaque)


def _decode_low_bits(contents, significant):
    """RGBA of a 16-bit PNG with fewer significant bits.

    PNG requires samples that fill the range: the significant bits on top, and below them zeros or
    rounding. Some writers do not scale the samples, which leaves the upper bits empty; those
    samples are scaled here.
    """
    values = tf.cast(tf.io.decode_png(contents, 4, tf.uint16), tf.int32)
    significant = tf.cast(significant, tf.int32)
    colours, scale = values[..., :3], 2 ** (16 - significant)
    unscaled = tf.reduce_all(colours < 2**significant) & tf.reduce_any(colours % scale > 1)
    scale = tf.where(unscaled, scale, 1)
    return tf.cast(tf.minimum(values * scale, 2**16 - 1) // 256, tf.uint8)


def _over_white(rgba):
    """Blends uint8 [h, w, 4] over white to [h, w, 3], rounded; alpha 255 changes nothing."""
    colours, alpha = (tf.cast(x, tf.uint16) for x in tf.split(rgba, [3, 1], axis=-1))
    blended = colours * alpha + _WHITE * (255 - alpha)
    return tf.cast((blended + 127) // 255, tf.uint8)


def _decode_gif(contents, channels):
    frame = gif_frame(contents)
    file = _bounded(frame.file, frame.canvas)
    image = _decode_image(file, 3)
    around = frame.canvas - frame.place - tf.shape(image, tf.int64)[:2]
    around = tf.pad(tf.stack([frame.place, around], axis=1), [[0, 1], [0, 0]])
    image = tf.pad(image, around, constant_values=_WHITE)
    # decode_image supports neither grey nor transparency for GIF and BMP.
    return image if channels == 3 else to_grey(image)


def _decode_bmp(contents, channels):
    facts = headers.bmp_facts(contents)
    contents = _bounded(contents, facts.size)
    contents = _require(facts.readable, _BMP_KIND, contents)
    if channels == 4:
        return _decode_image(contents, 4)

    def palette():
        colours = tf.reshape(tf.io.decode_raw(facts.palette, tf.uint8), [-1, 4])[:, 2::-1]
        # decode_image would treat the indices as grey values.
        indices = tf.io.decode_bmp(contents, channels=0)[..., 0]
        return tf.gather(colours, tf.cast(indices, tf.int32))

    image = tf.case(
        [
            (facts.indexed, palette),
            (facts.transparent, lambda: _over_white(tf.io.decode_bmp(contents, channels=4))),
        ],
        lambda: _decode_image(contents, 3),
    )
    return image if channels == 3 else to_grey(image)


def _decode_image(contents, channels):
    return tf.io.decode_image(contents, channels=channels, expand_animations=False)


def _upright(image, orientation):
    """Rotates and mirrors a stored image by its EXIF orientation, 1 to 8.

    2 mirrors left to right, 4 top to bottom, and 3 does both. 5 to 8 do the same as 1 to 4 to the
    transposed image.
    """
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = (orientation - 1) % 4
    return tf.raw_ops.Reverse(
        tensor=image, dims=tf.stack([mirrored >= 2, (mirrored == 1) | (mirrored == 2), False])
    )


def _bounded(contents, size):
    """Returns the contents; InvalidArgumentError if an image of this size is too large."""
    # In floating point, as the product of two 32-bit sides can exceed an int64.
    pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    return _require(pixels <= MAX_PIXELS, _TOO_LARGE, contents)


def _require(condition, otherwise, contents):
    """Returns the contents; InvalidArgumentError with text `otherwise` unless `condition`."""
    # Not tf.debugging: its assertions add a branch, which costs time for every image.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=[otherwise])]):
        return tf.identity(contents)


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """Converts uint8 [..., 3] to uint8 [..., 1], rounded; R = G = B stays exact."""
    grey = tf.image.rgb_to_grayscale(tf.cast(image, tf.float32))
    return tf.cast(tf.round(grey), tf.uint8)
