"""The kernel's crops equal TensorFlow's, bit for bit, for any image, box and size."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import augment as oracle
from tf_simclr.data import pipeline

ROOT = pathlib.Path(pipeline.__file__).parents[2]
LONG = 2**20  # Values in a row; `crop_views.c` does not hold longer rows as floats.
SIZES = (1, 2, 7, 32, 224)
SMALL = [(1, 1), (1, 40), (40, 1), (2, 3), (8, 8), (61, 37), (3, 700), (700, 3)]
LARGE = [(375, 500), (768, 512), (20_000, 50), (50, 20_000)]


def random_image(*shape):
    """Noise, and above it black and white, at whose edges the cubic overshoots most."""
    image = np.random.default_rng(shape).integers(0, 256, shape, np.uint8)
    top = image[: shape[0] // 3]
    top[:] = np.where(top < 128, 0, 255)
    return image


def boxes_in(height, width, count):
    """The whole image, corners and slivers, then random boxes."""
    rng = np.random.default_rng([height, width])
    last, end = height - 1, width - 1
    boxes = [(0, 0, height, width), (0, 0, 1, 1), (last, end, 1, 1), (last, 0, 1, width)]
    boxes += [(0, end, height, 1), (last // 2, end // 2, height // 2 + 1, width // 2 + 1)]
    while len(boxes) < count:
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w))
    return np.array(boxes, np.int32)


def crop(kernels, image, boxes, flips, size):
    views = kernels.crop_views(image=image, boxes=boxes, flips=flips, size=size)
    assert views.dtype == tf.uint8 and views.shape == (len(boxes), size, size, image.shape[-1])
    return views.numpy()


def by_tensorflow(image, box, size):
    top, left, height, width = box
    floats = image[top : top + height, left : left + width].astype(np.float32)
    return pipeline._to_uint8(tf.image.resize(floats, [size, size], "bicubic")).numpy()


def assert_same_bits(kernels, image, boxes, size):
    expected = [by_tensorflow(image, box, size) for box in boxes]
    odd = np.arange(len(boxes)) % 2 == 1
    for flips in (odd, ~odd):
        views = crop(kernels, image, boxes, flips, size)
        for view, box, flip, want in zip(views, boxes, flips, expected):
            want = want[:, ::-1] if flip else want
            np.testing.assert_array_equal(view, want, err_msg=f"{image.shape}, {box}, {flip}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("height", "width"), SMALL)
def test_has_tensorflows_bits(height, width, size, kernels):
    boxes = boxes_in(height, width, 10)
    for channels in (1, 2, 3, 4, 5):
        assert_same_bits(kernels, random_image(height, width, channels), boxes, size)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("height", "width"), LARGE)
def test_has_tensorflows_bits_of_large_images(height, width, channels, kernels):
    image, boxes = random_image(height, width, channels), boxes_in(height, width, 8)
    for size in SIZES:
        assert_same_bits(kernels, image, boxes[:6:2] if size == 224 else boxes, size)


@pytest.mark.parametrize("seed", range(8))
def test_has_tensorflows_bits_of_anything(seed, kernels):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        height, width = np.exp(rng.uniform(0, np.log(400), 2)).astype(int)
        image = random_image(height, width, rng.integers(1, 6))
        size = int(np.exp(rng.uniform(0, np.log(80))))
        assert_same_bits(kernels, image, boxes_in(height, width, 9)[6:], size)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_rows_too_long_for_floats_have_tensorflows_bits_too(channels, kernels):
    longest = LONG // channels
    image = random_image(5, longest + 70, channels)
    boxes = [(0, 0, 5, longest + beyond) for beyond in (0, 1, 70)]  # 1: the first that is too long.
    boxes += [(1, 69, 3, longest + 1), (4, 3, 1, longest + 2)]
    for size in SIZES:
        assert_same_bits(kernels, image, np.int32(boxes[:2] if size == 224 else boxes), size)


@pytest.mark.parametrize(("height", "width"), [(700_000, 2), (1, 2**24 + 5)])
def test_sides_at_the_end_of_single_precision(height, width, kernels):
    assert_same_bits(kernels, random_image(height, width, 1), boxes_in(height, width, 6), 33)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (61, 37), (3, 700), (375, 500)])
def test_is_the_cubic_of_the_definition(height, width, size, channels, kernels):
    # The kernel's weights, in steps of 1/1024, are exact if the size is a power of two.
    atol = 0.5 + (1e-3 if size & (size - 1) == 0 else 0.5)
    image, boxes = random_image(height, width, channels), boxes_in(height, width, 8)
    flips = np.arange(len(boxes)) % 3 == 0
    for view, box, flip in zip(crop(kernels, image, boxes, flips, size), boxes, flips):
        expected = oracle.resize_crop(image, tuple(box), flip, size).clip(0, 255)
        np.testing.assert_allclose(view, expected, rtol=0, atol=atol, err_msg=f"{box}, {flip}")


def test_of_everything_at_its_own_size_is_the_image(kernels):
    image = random_image(32, 32, 3)
    boxes = np.int32([(0, 0, 32, 32)] * 2)
    plain, mirrored = crop(kernels, image, boxes, [False, True], 32)
    np.testing.assert_array_equal(plain, image)
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


@pytest.mark.parametrize("shape", [(4, 5, 3), (0, 5, 3), (4, 0, 1), (4, 5, 0)])
def test_no_boxes_give_no_views(shape, kernels):
    crop(kernels, np.zeros(shape, np.uint8), np.zeros([0, 4], np.int32), np.zeros(0, bool), 7)


MOST = 2**31 - 1
OUTSIDE = [(0, 0, 5, 5), (0, 0, 4, 6), (1, 0, 4, 1), (0, 1, 1, 5), (4, 0, 1, 1), (0, 5, 1, 1)]
NEGATIVE = [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, -1, 1), (0, 0, 1, -2), (3, 4, -1, -1)]
EMPTY = [(0, 0, 0, 1), (0, 0, 1, 0), (0, 0, 0, 0), (4, 5, 0, 0)]
OVERFLOWING = [(MOST, 0, 1, 1), (1, 0, MOST, 1), (0, MOST, 1, MOST), (-MOST - 1, 0, MOST, 1)]


@pytest.mark.parametrize("box", OUTSIDE + NEGATIVE + EMPTY + OVERFLOWING, ids=str)
def test_boxes_must_lie_inside(box, kernels):
    for boxes in ([box], [(0, 0, 4, 5), box]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="empty or not inside the image"):
            crop(kernels, random_image(4, 5, 3), np.int32(boxes), [False] * len(boxes), 7)


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 0, 3), (0, 0, 0)], ids=str)
def test_an_empty_image_holds_no_box(shape, kernels):
    with pytest.raises(tf.errors.InvalidArgumentError, match="empty or not inside the image"):
        crop(kernels, np.zeros(shape, np.uint8), np.int32([(0, 0, 1, 1)]), [False], 7)


@pytest.mark.parametrize(
    ("image", "boxes", "flips"),
    [
        ([], [1, 4], [1]),
        ([4, 5], [1, 4], [1]),
        ([4, 5, 3, 1], [1, 4], [1]),
        ([4, 5, 3], [4], [1]),
        ([4, 5, 3], [1, 4, 1], [1]),
        ([4, 5, 3], [1, 3], [1]),
        ([4, 5, 3], [2, 5], [2]),
        ([4, 5, 3], [0, 5], [0]),
        ([4, 5, 3], [0], [0]),
        ([4, 5, 3], [], []),
        ([4, 5, 3], [1, 4], [0]),
        ([4, 5, 3], [1, 4], [2]),
        ([4, 5, 3], [0, 4], [1]),
        ([4, 5, 3], [2, 4], [1]),
    ],
    ids=str,
)
def test_shapes_must_be_right(image, boxes, flips, kernels):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"needs image \[H, W, C\]"):
        kernels.crop_views(
            image=tf.ones(image, tf.uint8),
            boxes=tf.ones(boxes, tf.int32),
            flips=tf.zeros(flips, tf.bool),
            size=7,
        )


@pytest.mark.parametrize("size", [0, -1, -(2**31), 2**15 + 1, 2**31, 2**40])
def test_sizes_have_their_limits(size, kernels):
    for count in (0, 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="a size of 1 to 32768"):
            boxes = tf.ones([count, 4], tf.int32)
            kernels.crop_views(
                image=tf.zeros([4, 5, 3], tf.uint8), boxes=boxes, flips=[False] * count, size=size
            )


# In a separate process, which may crash.
OVERFLOWING_SIZES = """
import tensorflow as tf
from tf_simclr import native

image, box = tf.zeros([4, 5, 3], tf.uint8), [[0, 0, 4, 5]]
for size in (2 * 10**9, 2**31 - 1):
    try:
        native.kernels().crop_views(image=image, boxes=box, flips=[False], size=size)
    except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
        print("refused")
"""


def test_views_of_more_bytes_than_64_bits_count_are_refused(kernels):
    words = [sys.executable, "-c", OVERFLOWING_SIZES]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 2), done.stderr
