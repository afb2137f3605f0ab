"""Colour jitter and grayscale, without a round trip through HSV.

Saturation, hue and grayscale exist for RGB only; other images are returned unchanged.
"""

from __future__ import annotations

import itertools

import tensorflow as tf

from tf_simclr.augment.planes import from_planes, to_planes

# JITTER_ORDERS[o] lists the operations of order o, first to fourth.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))

_LUMA = (0.2989, 0.5870, 0.1140)  # ITU-R BT.601, as in `tf.image.rgb_to_grayscale`.


def color_jitter(x, brightness, contrast, saturation, hue, order):
    """Applies brightness, contrast, saturation and hue in an order per image, clipping after each.

    Args:
      x: [B, H, W, C] float32 in [0, 1].
      brightness, contrast, saturation: [B] factors; 1 leaves the image unchanged.
      hue: [B] shift in turns; 0 leaves the image unchanged. Saturation and hue may be None.
      order: [B] int32 in [0, 24), index into `JITTER_ORDERS`.

    Returns:
      [B, H, W, C] float32 in [0, 1].
    """
    planes = to_planes(x)
    return from_planes(jitter_planes(planes, brightness, contrast, saturation, hue, order), x)


def adjust_brightness(x, factor):
    """Multiplies each image by its factor (the reference's "simclrv2" brightness); not clipped."""
    return x * factor[:, tf.newaxis, tf.newaxis, tf.newaxis]


def adjust_contrast(x, factor):
    """Scales each channel about its mean over the image, as `tf.image.adjust_contrast`."""
    return from_planes(_contrast(to_planes(x), factor[:, tf.newaxis]), x)


def adjust_saturation(x, factor):
    """Scales the HSV saturation of RGB images by [B] factors, as `tf.image.adjust_saturation`.

    At constant H and V this scales each channel's distance from V, the largest channel, up to
    S = 1.
    """
    if x.shape[-1] != 3:
        return x
    return from_planes(_saturation(to_planes(x), factor[:, tf.newaxis]), x)


def adjust_hue(x, delta):
    """Rotates the hue of RGB images by [B] deltas in turns, as `tf.image.adjust_hue`."""
    if x.shape[-1] != 3:
        return x
    return from_planes(_hue(to_planes(x), delta[:, tf.newaxis]), x)


def to_grayscale(x):
    """The luma of RGB images, in all three channels."""
    if x.shape[-1] != 3:
        return x
    return from_planes([luma(to_planes(x))] * 3, x)


def jitter_planes(planes, brightness, contrast, saturation, hue, order):
    """`color_jitter` on channel planes [B, H * W]."""
    colour = saturation is not None and len(planes) == 3
    orders = tf.gather(tf.constant(JITTER_ORDERS, tf.int32), order)
    for position in range(4):
        operation = orders[:, position]
        # The first three are blends f x + (1 - f) m, where m is black, the image's mean colour or
        # the pixel's largest channel. One pass computes all three.
        factor = tf.where(operation == BRIGHTNESS, brightness, 1.0)
        factor = tf.where(operation == CONTRAST, contrast, factor)[:, tf.newaxis]
        of_mean = tf.where(operation == CONTRAST, 1.0 - contrast, 0.0)[:, tf.newaxis]
        centres = [of_mean * _mean(plane) for plane in planes]
        if colour:
            value, chroma = _value_and_chroma(planes)
            turning = (operation == HUE)[:, tf.newaxis]
            turned = _turn_hue(planes, value, chroma, tf.where(turning, hue[:, tf.newaxis], 0.0))
            saturating = (operation == SATURATION)[:, tf.newaxis]
            factor, centres = _with_saturation(
                value, chroma, saturating, saturation, factor, centres
            )
        planes = [
            tf.clip_by_value(factor * plane + centre, 0.0, 1.0)
            for plane, centre in zip(planes, centres)
        ]
        if colour:
            planes = [tf.where(turning, t, plane) for t, plane in zip(turned, planes)]
    return planes


def luma(planes):
    """The luma of three planes."""
    return sum(weight * plane for weight, plane in zip(_LUMA, planes))


def _mean(plane):
    return tf.reduce_mean(plane, axis=-1, keepdims=True)


# The functions below take planes [..., H * W] and parameters that broadcast: [B, 1], or scalars
# for one image.


def _contrast(planes, factor):
    return [factor * p + (1.0 - factor) * _mean(p) for p in planes]


def _saturation(planes, factor):
    value, chroma = _value_and_chroma(planes)
    gain = _saturation_gain(value, chroma, factor)
    return [value + (p - value) * gain for p in planes]


def _hue(planes, delta):
    return _turn_hue(planes, *_value_and_chroma(planes), delta)


def _value_and_chroma(planes):
    r, g, b = planes
    value = tf.maximum(r, tf.maximum(g, b))
    return value, value - tf.minimum(r, tf.minimum(g, b))


def _with_saturation(value, chroma, saturating, saturation, factor, centres):
    """Adds the blend towards `value` to factor and centres, for images whose saturation changes."""
    gain = _saturation_gain(value, chroma, tf.where(saturating, saturation[:, tf.newaxis], 1.0))
    of_value = tf.where(saturating, value - gain * value, 0.0)
    return factor * gain, [centre + of_value for centre in centres]


def _saturation_gain(value, chroma, factor):
    """The factor on (channel - V), limited so that S <= 1 (no channel falls below 0)."""
    most = tf.where(chroma > 0.0, tf.math.divide_no_nan(value, chroma), 1.0)
    return tf.minimum(factor, most)


def _turn_hue(planes, value, chroma, delta):
    r, g, b = planes
    scale = tf.math.reciprocal_no_nan(chroma)
    # Hue in sixths of a turn, from the sector of the largest channel. Channels are compared with
    # each other and not with `value`: XLA may compute it twice, rounded differently, so that no
    # channel equals it.
    sixths = tf.where(
        (r >= g) & (r >= b),
        (g - b) * scale,
        tf.where(g >= b, 2.0 + (b - r) * scale, 4.0 + (r - g) * scale),
    )
    sixths += 6.0 * delta
    turned = []
    # f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6, n = 5, 3, 1 for R, G, B.
    for n in (5.0, 3.0, 1.0):
        k = sixths + n
        k -= 6.0 * tf.floor(k * (1.0 / 6.0))
        turned.append(value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0))
    return turned
