"""The paper's image operations as pure functions of (images, parameters), batched.

Images are float32 [B, H, W, C] in [0, 1]; parameters are one per image, [B]. Nothing is drawn
here: the pipeline draws (`data/parameters.py`), so any oracle can be given the same parameters. Saturation, hue and grayscale
exist for RGB only and leave images of other channels as they are.
Everything has static shapes and compiles under XLA, so it runs on the accelerator inside the step.
SimCLR, arXiv:2002.05709, appendix A.
"""

from __future__ import annotations

import itertools

import tensorflow as tf

# Row o lists which operation comes first, second, third and fourth in order number o.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))

_LUMA = (0.2989, 0.5870, 0.1140)  # ITU-R BT.601, as `tf.image.rgb_to_grayscale`.


def finish_views(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """From the pipeline's batch to what the encoder sees: colour jitter, grayscale and blur.

    Args:
      batch: an element of `two_view_dataset`: "images" uint8 [B, 2, H, W, C], cropped and flipped,
        and the drawn parameters, each [B, 2]; operations whose parameters are absent are off.

    Returns:
      [2B, H, W, C] float32 in [0, 1]: all first views, then all second views.
    """
    flat = {name: _views_first(value) for name, value in batch.items()}
    x = tf.cast(flat["images"], tf.float32) * (1.0 / 255.0)
    if "brightness" in flat:
        x = color_jitter(
            x,
            flat["brightness"],
            flat["contrast"],
            flat.get("saturation"),
            flat.get("hue"),
            flat["order"],
        )
    if "grayscale" in flat:
        x = tf.where(_per_image(flat["grayscale"]), to_grayscale(x), x)
    if "sigma" in flat:
        x = gaussian_blur(x, flat["sigma"])
    return x


def color_jitter(x, brightness, contrast, saturation, hue, order):
    """Brightness, contrast, saturation and hue in an order of each image's own, clipped after each.

    Args:
      x: [B, H, W, C] float32 in [0, 1].
      brightness, contrast, saturation: [B] factors, 1 leaves the image as it is.
      hue: [B] shift in turns, 0 leaves the image as it is. Saturation and hue may be None: they
        are left out (images that are not RGB).
      order: [B] int32 in [0, 24), index into `JITTER_ORDERS`.

    Returns:
      [B, H, W, C] float32 in [0, 1].
    """
    orders = tf.gather(tf.constant(JITTER_ORDERS, tf.int32), order)
    for position in range(4):
        operation = orders[:, position]
        # The first three are blends f x + (1 - f) m, which differ in m: black, the image's mean
        # colour, the pixel's own brightest channel. One pass does them all.
        factor = tf.where(operation == BRIGHTNESS, brightness, contrast)
        centre = tf.where(
            _per_image(operation == CONTRAST), tf.reduce_mean(x, axis=[1, 2], keepdims=True), 0.0
        )
        if saturation is None or x.shape[-1] != 3:
            keep = (operation == BRIGHTNESS) | (operation == CONTRAST)
            factor = _per_image(tf.where(keep, factor, 1.0))
            x = tf.clip_by_value(factor * x + (1.0 - factor) * centre, 0.0, 1.0)
            continue
        saturating = _per_image(operation == SATURATION)
        turning = _per_image(operation == HUE)
        value = tf.reduce_max(x, axis=-1, keepdims=True)
        factor = tf.where(saturating, _saturation_gain(x, value, saturation), _per_image(factor))
        centre = tf.where(saturating, value, centre)
        blended = tf.clip_by_value(factor * x + (1.0 - factor) * centre, 0.0, 1.0)
        x = tf.where(turning, tf.clip_by_value(adjust_hue(x, hue), 0.0, 1.0), blended)
    return x


def adjust_brightness(x, factor):
    """Multiplies each image by its factor (the reference's "simclrv2" brightness); not clipped."""
    return x * _per_image(factor)


def adjust_contrast(x, factor):
    """Scales each channel about its mean over the image, as `tf.image.adjust_contrast`."""
    mean = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    factor = _per_image(factor)
    return factor * x + (1.0 - factor) * mean


def adjust_saturation(x, factor):
    """Scales the HSV saturation of RGB images by [B] factors, as `tf.image.adjust_saturation`.

    Without the round trip: changing S at constant H and V moves each channel along the line
    through V, the largest channel; S <= 1 bounds how far.
    """
    if x.shape[-1] != 3:
        return x
    value = tf.reduce_max(x, axis=-1, keepdims=True)
    gain = _saturation_gain(x, value, factor)
    return value + (x - value) * gain


def adjust_hue(x, delta):
    """Turns the hue of RGB images by [B] deltas in turns (1 = the circle), as `tf.image.adjust_hue`."""
    if x.shape[-1] != 3:
        return x
    r, g, b = tf.unstack(x, axis=-1)
    value = tf.maximum(r, tf.maximum(g, b))
    chroma = value - tf.minimum(r, tf.minimum(g, b))
    scale = tf.math.reciprocal_no_nan(chroma)
    # Hue in sixths of a turn, from the sector of the largest channel. Channels are compared with
    # each other: XLA may compute `value` twice, rounded differently, and then none equals it.
    sixths = tf.where(
        (r >= g) & (r >= b),
        (g - b) * scale,
        tf.where(g >= b, 2.0 + (b - r) * scale, 4.0 + (r - g) * scale),
    )
    sixths += 6.0 * delta[:, tf.newaxis, tf.newaxis]
    # f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6, n = 5, 3, 1 for R, G, B.
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = tf.math.floormod(n + sixths, 6.0)
        channels.append(value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0))
    return tf.stack(channels, axis=-1)


def to_grayscale(x):
    """The luma of RGB images, in all three channels."""
    if x.shape[-1] != 3:
        return x
    luma = tf.reduce_sum(x * tf.constant(_LUMA), axis=-1, keepdims=True)
    return tf.repeat(luma, 3, axis=-1)


def gaussian_blur(x, sigma):
    """Separable Gaussian blur with a sigma of each image's own, in pixels; 0 leaves it untouched.

    The kernel has 2 r + 1 taps, r = (H // 10) // 2 (paper, appendix A: a tenth of the image), and
    the border is padded with zeros, as the reference. Differs from google-research/simclr
    (tf2/data_util.py): sigma per image, as the paper says, not one for the batch. Done as a
    product with a banded matrix along each axis, which suits every accelerator.
    """
    radius = (x.shape[1] // 10) // 2
    if radius == 0:
        return x
    rows = _blur_matrix(x.shape[1], radius, sigma)
    columns = _blur_matrix(x.shape[2], radius, sigma)
    batch, height, width, channels = tf.unstack(tf.shape(x))
    x = tf.matmul(rows, tf.reshape(x, [batch, height, width * channels]))
    x = tf.reshape(x, [batch, height, width, channels])
    return tf.einsum("bvw,bhwc->bhvc", columns, x)


def resize_crop(images, boxes, flip, size: int):
    """Crops one box from each image, resizes it bicubically and flips it where asked.

    The same as `tf.image.resize(crop, [size, size], "bicubic")` (half-pixel centres, no
    antialiasing, as the reference), for a whole batch of equally large images at once: resizing
    is separable and linear, so it is a product with a [size, H] matrix from either side.

    Args:
      images: [B, H, W, C] uint8 or float.
      boxes: [B, 4] (top, left, height, width) in pixels, inside the image.
      flip: [B] bool, mirror left to right.
      size: side of the result in pixels.

    Returns:
      [B, size, size, C] float32 in the units of `images`; bicubic overshoot is not clipped.
    """
    boxes = tf.cast(boxes, tf.float32)
    rows = bicubic_matrix(boxes[:, 0], boxes[:, 2], images.shape[1], size)
    columns = bicubic_matrix(boxes[:, 1], boxes[:, 3], images.shape[2], size)
    columns = tf.where(flip[:, tf.newaxis, tf.newaxis], columns[:, ::-1], columns)
    x = tf.cast(images, tf.float32)
    batch, height, width, channels = tf.unstack(tf.shape(x))
    x = tf.matmul(rows, tf.reshape(x, [batch, height, width * channels]))
    x = tf.reshape(x, [batch, size, width, channels])
    return tf.ensure_shape(
        tf.einsum("bvw,bhwc->bhvc", columns, x), [None, size, size, images.shape[3]]
    )


def bicubic_matrix(start, length, extent: int, size: int):
    """Weights that resize [start, start + length) of an axis to `size` samples.

    Keys' cubic with a = -1/2 at half-pixel centres; taps outside the crop are dropped and the
    others renormalised, as `tf.image.resize` does.

    Args:
      start, length: [B] float32 pixels.
      extent: length of the axis in pixels.
      size: number of samples.

    Returns:
      [B, size, extent] float32; each row sums to 1.
    """
    start, length = start[:, tf.newaxis], length[:, tf.newaxis]
    centre = (tf.range(size, dtype=tf.float32) + 0.5) * length / size - 0.5
    centre = (start + centre)[:, :, tf.newaxis]
    pixel = tf.range(extent, dtype=tf.float32)[tf.newaxis, tf.newaxis, :]
    d = tf.abs(pixel - centre)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    weight = tf.where(d < 1.0, near, tf.where(d < 2.0, far, 0.0))
    start, length = start[:, :, tf.newaxis], length[:, :, tf.newaxis]
    weight = tf.where((pixel >= start) & (pixel < start + length), weight, 0.0)
    return weight / tf.reduce_sum(weight, axis=2, keepdims=True)


def center_crop_resize(images, size: int, crop_proportion: float = 0.875):
    """The evaluation view: the central square, `crop_proportion` of the shorter side, resized.

    Differs from google-research/simclr (tf2/data_util.py): always resizes, also at 32 pixels and
    below, so that images of any size can be evaluated (its issue #163).

    Args:
      images: [H, W, C] or [B, H, W, C], uint8 in [0, 255] or float in [0, 1], any size.
      size: side of the result in pixels.
      crop_proportion: share of the shorter side that is kept, in (0, 1].

    Returns:
      The same rank, float32 in [0, 1], bicubic.
    """
    scale = 1.0 / 255.0 if images.dtype == tf.uint8 else 1.0
    shape = tf.shape(images)
    height, width = shape[-3], shape[-2]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(tf.round(shorter * crop_proportion), tf.int32), 1)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = images[..., top : top + side, left : left + side, :]
    x = tf.image.resize(tf.cast(crop, tf.float32) * scale, [size, size], "bicubic")
    return tf.clip_by_value(x, 0.0, 1.0)


def eval_crop_proportion(image_size: int) -> float:
    """0.875 for photographs, all of the image at 32 pixels and below (as the reference)."""
    return 0.875 if image_size > 32 else 1.0


def _views_first(x):
    """[B, 2, ...] -> [2B, ...], all first views before all second views."""
    x = tf.concat(tf.unstack(x, axis=1), axis=0)
    return x


def _per_image(parameter):
    return parameter[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _saturation_gain(x, value, factor):
    """The factor on (channel - V), bounded where S would exceed 1 (the smallest channel < 0)."""
    chroma = value - tf.reduce_min(x, axis=-1, keepdims=True)
    most = tf.where(chroma > 0.0, tf.math.divide_no_nan(value, chroma), 1.0)
    return tf.minimum(_per_image(factor), most)


def _blur_matrix(extent: int, radius: int, sigma):
    """[B, extent, extent] band of Gaussian weights; the identity where sigma is 0."""
    position = tf.range(extent)
    offset = position[tf.newaxis, :] - position[:, tf.newaxis]
    inside = tf.cast(tf.abs(offset) <= radius, tf.float32)
    taps = tf.range(-radius, radius + 1, dtype=tf.float32)
    blurred = sigma > 0.0
    inverse = tf.where(blurred, 0.5 / tf.square(tf.where(blurred, sigma, 1.0)), 0.0)
    weight = tf.exp(-tf.square(taps)[tf.newaxis, :] * inverse[:, tf.newaxis])
    total = tf.reduce_sum(weight, axis=1)[:, tf.newaxis, tf.newaxis]
    squared = tf.square(tf.cast(offset, tf.float32))[tf.newaxis]
    band = inside * tf.exp(-squared * inverse[:, tf.newaxis, tf.newaxis]) / total
    return tf.where(blurred[:, tf.newaxis, tf.newaxis], band, tf.eye(extent)[tf.newaxis])
