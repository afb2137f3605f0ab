"""SimCLR's image operations on one [H, W, C] image, with loops and colorsys: oracles.

SimCLR, arXiv:2002.05709, appendix A. Images are float64; colours in [0, 1]. Only `color_jitter`
clips: to [0, 1], after each of its four operations.
"""

from __future__ import annotations

import colorsys
import itertools
import math

import numpy as np

ORDERS = tuple(itertools.permutations(("brightness", "contrast", "saturation", "hue")))
_LUMA = (0.2989, 0.5870, 0.1140)  # ITU-R BT.601, the digits tf.image uses


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Every value times `factor`."""
    return np.asarray(image, np.float64) * factor


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Each value's distance from the mean of its channel times `factor`."""
    image = np.asarray(image, np.float64)
    out = np.empty_like(image)
    for channel in range(image.shape[-1]):
        mean = image[..., channel].mean()
        out[..., channel] = (image[..., channel] - mean) * factor + mean
    return out


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """HSV's S times `factor`, clipped to [0, 1]; H and V unchanged."""
    return _each_hsv(image, lambda h, s, v: (h, min(max(s * factor, 0.0), 1.0), v))


def hue(image: np.ndarray, delta: float) -> np.ndarray:
    """HSV's H rotated by `delta` turns; S and V unchanged."""
    return _each_hsv(image, lambda h, s, v: ((h + delta) % 1.0, s, v))


def color_jitter(image: np.ndarray, factors: dict[str, float], order: int) -> np.ndarray:
    """The four operations in permutation `order` of ORDERS, clipped to [0, 1] after each."""
    operations = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    for name in ORDERS[order]:
        image = np.clip(operations[name](image, factors[name]), 0.0, 1.0)
    return image


def grayscale(image: np.ndarray) -> np.ndarray:
    """The luma in all three channels."""
    luma = sum(weight * image[..., c].astype(np.float64) for c, weight in enumerate(_LUMA))
    return np.stack([luma] * 3, axis=-1)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs rows, then columns, with 2r + 1 taps, r = (H // 10) // 2, zeros outside the image."""
    image = np.array(image, np.float64)
    if sigma == 0.0:
        return image
    height, width, channels = image.shape
    radius = int((height // 10) / 2)
    taps = np.array([math.exp(-(t**2) / (2 * sigma**2)) for t in range(-radius, radius + 1)])
    taps /= taps.sum()
    for channel in range(channels):
        for y in range(height):
            full = np.convolve(image[y, :, channel], taps, mode="full")
            image[y, :, channel] = full[radius : radius + width]
        for x in range(width):
            full = np.convolve(image[:, x, channel], taps, mode="full")
            image[:, x, channel] = full[radius : radius + height]
    return image


def resize_crop(
    image: np.ndarray, box: tuple[int, int, int, int], flip: bool, size: int
) -> np.ndarray:
    """Crops (top, left, height, width), resizes to [size, size, C] and mirrors if `flip`."""
    top, left, height, width = box
    out = bicubic_resize(image[top : top + height, left : left + width], size, size)
    return out[:, ::-1] if flip else out


def bicubic_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keys' cubic with a = -0.5 on half-pixel centres, no antialiasing.

    Keys 1981, "Cubic convolution interpolation for digital image processing", eq. 4. Taps outside
    the image weigh nothing and the rest are scaled to sum to 1, as tf.image.resize does.
    """
    image = np.asarray(image, np.float64)
    rows = np.stack([_sample(image, y, image.shape[0] / height) for y in range(height)])
    columns = rows.transpose(1, 0, 2)
    out = np.stack([_sample(columns, x, image.shape[1] / width) for x in range(width)])
    return out.transpose(1, 0, 2)


def center_crop_resize(image: np.ndarray, size: int, crop_proportion: float) -> np.ndarray:
    """The evaluation path: the middle square of crop_proportion of the shorter side, [0, 1]."""
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    height, width = image.shape[:2]
    side = int(np.rint(crop_proportion * min(height, width)))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = image[top : top + side, left : left + side] / scale
    return np.clip(bicubic_resize(crop, size, size), 0.0, 1.0)


def _sample(image: np.ndarray, index: int, scale: float) -> np.ndarray:
    """Output line `index` along the first axis."""
    position = (index + 0.5) * scale - 0.5
    first = math.floor(position) - 1
    total, weights = 0.0, 0.0
    for tap in range(first, first + 4):
        if 0 <= tap < image.shape[0]:
            weight = _keys(abs(position - tap))
            total = total + weight * image[tap]
            weights += weight
    return total / weights


def _keys(x: float, a: float = -0.5) -> float:
    if x <= 1.0:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2.0:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def _each_hsv(image: np.ndarray, change) -> np.ndarray:
    out = np.empty(image.shape, np.float64)
    for y, x in itertools.product(range(image.shape[0]), range(image.shape[1])):
        pixel = (float(value) for value in image[y, x])
        out[y, x] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
    return out
