"""Encoded image files (JPEG, PNG, GIF, BMP) to uint8 tensors, in the graph, as viewers show them.

The format is read from the contents, never from the name: the name often lies.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tf_simclr.data import headers
from tf_simclr.data.gif import gif_frame
from tf_simclr.data.png import is_plain_png, png_facts, png_size

MAX_BYTES = 500_000_000  # Of a file, which is read into memory whole: larger ones are called bad.
MAX_PIXELS = (
    100_000_000  # Larger ones are called bad: a header of a few bytes can ask for gigabytes.
)
_TOO_LARGE = f"an image of more than {MAX_PIXELS:,} pixels"
_BMP_KIND = "a BMP that is compressed, or stores its colours in another order"
_WHITE = 255  # What transparent pixels show, as on most pages of the web.


@tf.autograph.experimental.do_not_convert  # Nothing to convert, and finding that out takes long.
def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes one image; of an animation, the first frame.

    Grey, palette, 16-bit, transparent and CMYK images all come out with the same channels.
    An image that EXIF says is stored turned or mirrored comes out upright. Transparency is blended
    over white, unless `channels` is 4. A GIF comes out as its whole canvas, white where the frame
    does not cover it. Of 16 bits the upper 8 are kept; where a PNG says that fewer are
    significant (sBIT) and holds them in the lower bits, the upper 8 of those. Colour profiles and
    gamma are not applied.

    Args:
      contents: scalar string, an image file.
      channels: 1 (luma), 3 (RGB) or 4 (RGBA; PNG and 32-bit BMP only).

    Returns:
      uint8 [h, w, channels]; (h, w) is `image_size(contents)`.

    Raises:
      tf.errors.InvalidArgumentError: damaged, not a JPEG, PNG, GIF or BMP, a BMP that is compressed
        or stores its colours in another order, or above `MAX_PIXELS`.
    """
    # JPEGs come by the million: they are spared what the other formats need, and those without
    # EXIF data the walk through their segments.
    image = tf.cond(
        headers.is_plain_jpeg(contents),
        lambda: _decode_jpeg(contents, channels),
        lambda: _apart(_decode_other, channels)(contents),
    )
    return tf.ensure_shape(image, [None, None, channels])


def _apart(function, channels):
    """In a graph, a function of its own: inlined, each of its operations costs time, run or not."""
    if tf.executing_eagerly():
        return functools.partial(function, channels=channels)
    return _traced_once(function, channels, MAX_PIXELS)


@functools.cache
def _traced_once(function, channels, max_pixels):
    """Kept, as tracing takes long and every data set asks for it; the graph holds `max_pixels`."""
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
    """Any but a plain JPEG."""
    # By `format_of`; decode_image says what is wrong with other formats.
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
    """RGBA of a PNG of 16 bits of which fewer are significant.

    PNG asks for samples that fill the range: these have their significant bits on top, below them
    zeros or what is lost by rounding. Some writers leave the samples as they are, which then have
    nothing on top and cannot be read otherwise.
    """
    values = tf.cast(tf.io.decode_png(contents, 4, tf.uint16), tf.int32)
    significant = tf.cast(significant, tf.int32)
    colours, scale = values[..., :3], 2 ** (16 - significant)
    unscaled = tf.reduce_all(colours < 2**significant) & tf.reduce_any(colours % scale > 1)
    scale = tf.where(unscaled, scale, 1)
    return tf.cast(tf.minimum(values * scale, 2**16 - 1) // 256, tf.uint8)


def _over_white(rgba):
    """uint8 [h, w, 4] to [h, w, 3], rounded: alpha 255 leaves a colour as it is."""
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
        # decode_image would take the indices for grey.
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
    """Turns and mirrors a stored image as its EXIF orientation, 1 to 8, says.

    5 to 8 are 1 to 4 of the transposed image. 2 mirrors it left to right, 4 top to bottom, and 3
    does both.
    """
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = (orientation - 1) % 4
    return tf.raw_ops.Reverse(
        tensor=image, dims=tf.stack([mirrored >= 2, (mirrored == 1) | (mirrored == 2), False])
    )


def _bounded(contents, size):
    """The contents; an InvalidArgumentError if an image of this size is too large to be decoded."""
    # In floating point: the product of two sides of 32 bits can exceed an int64.
    pixels = tf.reduce_prod(tf.cast(size, tf.float64))
    return _require(pixels <= MAX_PIXELS, _TOO_LARGE, contents)


def _require(condition, otherwise, contents):
    """The contents; an InvalidArgumentError that says `otherwise` if the condition is not met."""
    # Not tf.debugging, whose assertions are a branch each: that is time for every image.
    with tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=[otherwise])]):
        return tf.identity(contents)


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """uint8 [..., 3] to uint8 [..., 1], rounded: R = G = B comes out as it was."""
    grey = tf.image.rgb_to_grayscale(tf.cast(image, tf.float32))
    return tf.cast(tf.round(grey), tf.uint8)
