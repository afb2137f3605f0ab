"""The image operations, compared with tf.image and with loops written from the paper."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import augment as oracle
from tf_simclr import augment

COLOUR_ATOL = 1e-4  # [0, 1] scale, far inside one step of 1/255
STEP = 1 / 255


def _test_images(height: int = 8, width: int = 9) -> np.ndarray:
    """[8, H, W, 3] float32 in [0, 1] that distinguish operations: hues, grays, edges, flats."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, width, dtype=np.float32)
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)), np.float32)
    ties = np.array(list(itertools.product((0.0, 0.5, 1.0), repeat=3)), np.float32)
    images = [
        rng.random((height, width, 3)),
        rng.random((height, width, 3)) * [0.1, 0.5, 1.0],
        np.broadcast_to(ramp[None, :, None], (height, width, 3)),  # grays
        np.resize(corners, (height, width, 3)),  # pure colours, black and white
        np.resize(ties, (height, width, 3)),  # channels equal two by two
        np.zeros((height, width, 3)),
        np.ones((height, width, 3)),
        np.clip(rng.normal(0.5, 0.01, (height, width, 3)), 0, 1),  # hardly any colour
    ]
    return np.stack(images).astype(np.float32)


def _per_image(values: list[float], count: int = 8) -> np.ndarray:
    return np.resize(np.array(values, np.float32), count)


FACTORS = [
    pytest.param([1.0], id="identity"),
    pytest.param([0.0], id="zero"),
    pytest.param([0.2, 0.6, 1.4, 1.8], id="paper"),
    pytest.param([1.8, 2.5, 4.0], id="beyond"),
]
DELTAS = [
    pytest.param([0.0], id="identity"),
    pytest.param([-0.2, 0.2], id="paper"),
    pytest.param([-0.5, 0.5, 0.33, -0.05, 1 / 6], id="wide"),
]
FACTOR_OPS = {
    "brightness": (augment.adjust_brightness, lambda x, f: x * f, oracle.brightness),
    "contrast": (augment.adjust_contrast, tf.image.adjust_contrast, oracle.contrast),
    "saturation": (augment.adjust_saturation, tf.image.adjust_saturation, oracle.saturation),
}


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("name", FACTOR_OPS)
def test_factor_ops_per_image(name, factors):
    op, tf_image, loops = FACTOR_OPS[name]
    images, factors = _test_images(), _per_image(factors)
    got = op(tf.constant(images), tf.constant(factors))
    assert got.dtype == tf.float32 and got.shape == images.shape
    for out, image, factor in zip(got.numpy(), images, factors):
        np.testing.assert_allclose(out, tf_image(image, float(factor)), atol=COLOUR_ATOL)
        np.testing.assert_allclose(out, loops(image, float(factor)), atol=COLOUR_ATOL)


@pytest.mark.parametrize("deltas", DELTAS)
def test_hue_per_image(deltas):
    images, deltas = _test_images(), _per_image(deltas)
    got = augment.adjust_hue(tf.constant(images), tf.constant(deltas))
    assert got.dtype == tf.float32 and got.shape == images.shape
    for out, image, delta in zip(got.numpy(), images, deltas):
        np.testing.assert_allclose(out, tf.image.adjust_hue(image, float(delta)), atol=COLOUR_ATOL)
        np.testing.assert_allclose(out, oracle.hue(image, float(delta)), atol=COLOUR_ATOL)


def test_brightness_and_contrast_do_not_clip():
    images = _test_images() * 1.4 - 0.2
    factors = _per_image([0.5, 1.5, 3.0])
    bright = augment.adjust_brightness(tf.constant(images), tf.constant(factors)).numpy()
    contrasted = augment.adjust_contrast(tf.constant(images), tf.constant(factors)).numpy()
    assert bright.max() > 1 and bright.min() < 0 and contrasted.max() > 1
    for i, factor in enumerate(factors):
        np.testing.assert_allclose(bright[i], images[i] * factor, atol=COLOUR_ATOL)
        expected = tf.image.adjust_contrast(images[i], float(factor))
        np.testing.assert_allclose(contrasted[i], expected, atol=COLOUR_ATOL)


@pytest.mark.parametrize(
    ("op", "tf_image", "values"),
    [
        (augment.adjust_saturation, tf.image.adjust_saturation, [0.4, 1.0, 1.7]),
        (augment.adjust_hue, tf.image.adjust_hue, [-0.2, 0.1, 0.2]),
    ],
)
def test_hsv_ops_on_values_above_one(op, tf_image, values):
    images, values = _test_images() * 1.5, _per_image(values)
    got = op(tf.constant(images), tf.constant(values)).numpy()
    for out, image, value in zip(got, images, values):
        np.testing.assert_allclose(out, tf_image(image, float(value)), atol=STEP)


def test_every_colour_turns_as_colorsys_says():
    levels = np.linspace(0, 1, 6, dtype=np.float32)
    cube = np.array(list(itertools.product(levels, repeat=3)), np.float32).reshape(1, 12, 18, 3)
    for delta in (-0.37, -0.2, 0.2):
        got = augment.adjust_hue(tf.constant(cube), tf.constant([delta], tf.float32))
        np.testing.assert_allclose(got[0], oracle.hue(cube[0], delta), atol=COLOUR_ATOL)
    for factor in (0.0, 0.3, 1.8):
        got = augment.adjust_saturation(tf.constant(cube), tf.constant([factor], tf.float32))
        np.testing.assert_allclose(got[0], oracle.saturation(cube[0], factor), atol=COLOUR_ATOL)


def _jitter_factors(count: int, strength: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    wide, hue = 0.8 * strength, 0.2 * strength
    draw = {name: rng.uniform(1 - wide, 1 + wide, count) for name in FACTOR_OPS}
    draw["hue"] = rng.uniform(-hue, hue, count)
    return {name: values.astype(np.float32) for name, values in draw.items()}


@pytest.mark.parametrize("image", [0, 3, 4], ids=["random", "pure", "ties"])
def test_colour_jitter_in_all_orders(image):
    images = np.repeat(_test_images()[image : image + 1], 24, axis=0)
    factors = _jitter_factors(24)
    factors["brightness"] = np.resize(np.array([1.7, 0.5], np.float32), 24)  # so clipping bites
    got = augment.color_jitter(tf.constant(images), **factors, order=tf.range(24)).numpy()
    for order in range(24):
        one = {name: float(values[order]) for name, values in factors.items()}
        expected = oracle.color_jitter(images[order], one, order)
        np.testing.assert_allclose(
            got[order], expected, atol=2 * COLOUR_ATOL, err_msg=str(oracle.ORDERS[order])
        )
    assert got.min() >= 0 and got.max() <= 1


def test_colour_jitter_clips_after_each_operation():
    """Brightens, then changes contrast: clipping in between changes the mean."""
    image = np.array([0.2, 0.9, 0.7, 0.4], np.float32).reshape(1, 2, 2, 1).repeat(3, axis=-1)
    order = oracle.ORDERS.index(("brightness", "contrast", "saturation", "hue"))
    got = augment.color_jitter(
        tf.constant(image),
        *(tf.constant([v]) for v in (2.0, 0.5, 1.0, 0.0)),
        tf.constant([order]),
    )
    clipped = np.array([0.4, 1.0, 1.0, 0.8])
    expected = (clipped - clipped.mean()) * 0.5 + clipped.mean()
    np.testing.assert_allclose(got[0, ..., 0], expected.reshape(2, 2), atol=COLOUR_ATOL)


def test_colour_jitter_at_rest_is_identity():
    images = _test_images()
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    got = augment.color_jitter(tf.constant(images), ones, ones, ones, zeros, tf.range(8) * 3)
    np.testing.assert_allclose(got, images, atol=COLOUR_ATOL)


def test_grayscale():
    images = _test_images()
    got = augment.to_grayscale(tf.constant(images)).numpy()
    assert got.shape == images.shape
    for out, image in zip(got, images):
        expected = np.repeat(tf.image.rgb_to_grayscale(image), 3, axis=-1)
        np.testing.assert_allclose(out, expected, atol=1e-6)
        np.testing.assert_allclose(out, oracle.grayscale(image), atol=1e-6)
    np.testing.assert_allclose(augment.to_grayscale(got), got, atol=2e-4)  # weights sum to 0.9999


# --- blur ---


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (19, 19), (20, 20), (32, 32), (48, 33), (24, 60), (64, 64)]
)
def test_blur(height, width, channels):
    images = np.random.default_rng(0).random((5, height, width, channels)).astype(np.float32)
    sigmas = np.array([0.1, 0.5, 0.0, 1.0, 2.0], np.float32)
    got = augment.gaussian_blur(tf.constant(images), tf.constant(sigmas)).numpy()
    assert got.dtype == np.float32 and got.shape == images.shape
    for out, image, sigma in zip(got, images, sigmas):
        np.testing.assert_allclose(out, oracle.gaussian_blur(image, float(sigma)), atol=1e-5)


def test_blur_has_23_taps_at_224():
    spike = np.zeros((1, 224, 224, 1), np.float32)
    spike[0, 112, 112] = 1.0
    got = augment.gaussian_blur(tf.constant(spike), tf.constant([50.0]))[0, ..., 0].numpy()
    rows, columns = np.nonzero(got > 1e-6)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (101, 123, 101, 123)
    np.testing.assert_allclose(got.sum(), 1.0, rtol=1e-5)


def test_blur_darkens_the_border_as_zero_padding_does():
    white = np.ones((1, 32, 32, 3), np.float32)
    got = augment.gaussian_blur(tf.constant(white), tf.constant([2.0])).numpy()[0]
    assert got[0, 0, 0] < got[0, 16, 0] < got[16, 16, 0]
    np.testing.assert_allclose(got[16, 16], 1.0, atol=1e-6)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_blur_of_sigma_zero_touches_nothing(size):
    images = np.random.default_rng(0).random((3, size, size, 3)).astype(np.float32)
    for sigmas in ([0.0, 0.0, 0.0], [0.0, 1.5, 0.0]):
        got = augment.gaussian_blur(tf.constant(images), tf.constant(sigmas)).numpy()
        np.testing.assert_array_equal(got[0], images[0])
        np.testing.assert_array_equal(got[2], images[2])


# --- crop and resize ---


def _boxes(height: int, width: int, count: int) -> np.ndarray:
    """The whole image, its edges, slivers and single pixels, then random boxes."""
    rng = np.random.default_rng(height * 100 + width)
    boxes = [
        (0, 0, height, width),
        (0, 0, height // 2, width // 2),
        (height - 5, width - 4, 5, 4),
        (0, 3, height, 1),
        (height - 1, 0, 1, width),
        (1, 2, 1, 1),
        (2, 1, 3, 3),
    ]
    while len(boxes) < count:
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w))
    return np.array(boxes, np.float32)


def _check_resize_crop(images, size, atol, op=augment.resize_crop, with_oracle=True):
    height, width = images.shape[1:3]
    boxes = _boxes(height, width, len(images))
    flips = np.arange(len(images)) % 2 == 1
    got = op(tf.constant(images), tf.constant(boxes), tf.constant(flips), size)
    assert got.dtype == tf.float32
    assert got.shape == (len(images), size, size, images.shape[-1])
    for out, image, box, flip in zip(got.numpy(), images, boxes.astype(int), flips):
        top, left, h, w = box
        crop = image[top : top + h, left : left + w].astype(np.float32)
        expected = tf.image.resize(crop, (size, size), "bicubic")
        expected = tf.image.flip_left_right(expected) if flip else expected
        np.testing.assert_allclose(out, expected, atol=atol, err_msg=f"box {box}, flip {flip}")
        if with_oracle:
            loops = oracle.resize_crop(image, tuple(box), flip, size)
            np.testing.assert_allclose(out, loops, atol=atol, err_msg=f"box {box}, flip {flip}")


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (8, 8, 32), (40, 56, 16), (61, 37, 24), (9, 9, 7)]
)
def test_resize_crop_of_uint8(height, width, size):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (24, height, width, 3), dtype=np.uint8)
    _check_resize_crop(images, size, atol=1.0)


def test_resize_crop_of_floats_and_no_clipping():
    images = (np.random.default_rng(2).random((24, 20, 30, 3)) > 0.5).astype(np.float32)
    _check_resize_crop(images, 16, atol=STEP)
    whole = tf.constant([[0.0, 0.0, 20.0, 30.0]] * 24)
    got = augment.resize_crop(tf.constant(images), whole, tf.zeros(24, tf.bool), 50).numpy()
    assert got.min() < 0 and got.max() > 1  # the cubic overshoots


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_resize_crop_of_any_channels(channels):
    images = np.random.default_rng(3).integers(0, 256, (10, 21, 17, channels), dtype=np.uint8)
    _check_resize_crop(images, 12, atol=1.0, with_oracle=False)


def test_resize_crop_of_everything_at_its_own_size_is_identity():
    images = np.random.default_rng(4).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    whole = tf.constant([[0.0, 0.0, 16.0, 16.0]] * 2)
    got = augment.resize_crop(tf.constant(images), whole, tf.constant([False, True]), 16).numpy()
    np.testing.assert_allclose(got[0], images[0], atol=1e-3)
    np.testing.assert_allclose(got[1], images[1][:, ::-1], atol=1e-3)


@pytest.mark.parametrize("as_uint8", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size", "proportion"),
    [
        (40, 40, 32, 0.875),
        (33, 50, 16, 0.875),
        (50, 33, 24, 0.875),
        (20, 31, 32, 1.0),
        (9, 9, 4, 1),
    ],
)
def test_center_crop_resize(height, width, size, proportion, channels, as_uint8):
    images = np.random.default_rng(5).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    if not as_uint8:
        images = (images / 255).astype(np.float32)
    got = augment.center_crop_resize(tf.constant(images), size, proportion)
    assert got.dtype == tf.float32 and got.shape == (2, size, size, channels)
    for out, image in zip(got.numpy(), images):
        expected = oracle.center_crop_resize(image, size, proportion)
        np.testing.assert_allclose(out, expected, atol=STEP)


# --- one channel and many ---


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_brightness_and_contrast_of_any_channels(channels):
    images = np.random.default_rng(6).random((4, 6, 7, channels)).astype(np.float32)
    factors = _per_image([0.0, 0.5, 1.8], 4)
    bright = augment.adjust_brightness(tf.constant(images), tf.constant(factors))
    contrasted = augment.adjust_contrast(tf.constant(images), tf.constant(factors))
    for i, factor in enumerate(factors):
        np.testing.assert_allclose(bright[i], images[i] * factor, atol=COLOUR_ATOL)
        expected = tf.image.adjust_contrast(images[i], float(factor))
        np.testing.assert_allclose(contrasted[i], expected, atol=COLOUR_ATOL)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_colour_needs_three_channels_and_leaves_others_alone(channels):
    """Hue, saturation and luma exist for RGB only; brightness and contrast for all channels."""
    images = np.random.default_rng(6).random((24, 6, 7, channels)).astype(np.float32)
    factors = _jitter_factors(24)
    got = augment.color_jitter(tf.constant(images), **factors, order=tf.range(24)).numpy()
    for i in range(24):
        expected = images[i]
        for name in oracle.ORDERS[i]:
            if name in ("brightness", "contrast"):
                expected = FACTOR_OPS[name][2](expected, float(factors[name][i])).clip(0, 1)
        np.testing.assert_allclose(got[i], expected, atol=COLOUR_ATOL)
    np.testing.assert_allclose(augment.to_grayscale(tf.constant(images)), images, atol=1e-6)


# --- where they run ---


def _finish(images, sigma, factors=None):
    """Applies all device operations, one after another."""
    count = 8
    factors = factors or {name: tf.constant(v) for name, v in _jitter_factors(count).items()}
    jittered = augment.color_jitter(images, **factors, order=tf.range(count) * 3)
    return augment.gaussian_blur(augment.to_grayscale(jittered), sigma), jittered


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "jit"])
@pytest.mark.parametrize("factors", [None, _jitter_factors(8)], ids=["constant", "drawn"])
@pytest.mark.parametrize("kind", ["made", "random"])
def test_device_operations_compile_to_the_same(kind, factors, jit_compile):
    """XLA fuses and recomputes, so no decision may depend on two roundings of the same value."""
    images = _test_images(32, 32)
    if kind == "random":
        images = np.random.default_rng(0).random(images.shape).astype(np.float32)
    sigma = tf.constant(_per_image([0.0, 0.1, 1.0, 2.0]))
    factors = factors and {name: tf.constant(value) for name, value in factors.items()}
    eager = _finish(tf.constant(images), sigma, factors)
    compiled = tf.function(_finish, jit_compile=jit_compile)(tf.constant(images), sigma, factors)
    for got, want in zip(compiled, eager):
        np.testing.assert_allclose(got, want, atol=COLOUR_ATOL)


def test_single_operations_compile_to_the_same():
    images = tf.constant(_test_images())
    for op in (*(ops[0] for ops in FACTOR_OPS.values()), augment.adjust_hue):
        values = tf.constant(_per_image([0.0, -0.2, 0.2, 0.4]))
        got = tf.function(op, jit_compile=True)(images, values)
        np.testing.assert_allclose(got, op(images, values), atol=COLOUR_ATOL)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "jit"])
def test_hues_that_land_between_two_sectors(jit_compile):
    """A fused multiply-add must not make a colour's sector and its position there inconsistent."""
    rng = np.random.default_rng(10)
    count, height, width = 12, 64, 64
    deltas = rng.uniform(-0.2, 0.2, count).astype(np.float32)
    landing = rng.integers(0, 7, (count, height, width)) / 6
    landing += rng.normal(0, 1e-7, landing.shape)
    h = (landing - deltas[:, None, None]) % 1.0
    wheel = np.abs((h[..., None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    low = rng.choice([0.0, 0.3], (count, height, width, 1))
    images = (low + (1 - low) * np.clip(wheel, 0, 1)).astype(np.float32)
    images *= rng.uniform(0.2, 1, low.shape).astype(np.float32)
    op = tf.function(augment.adjust_hue, jit_compile=jit_compile)
    got = op(tf.constant(images), tf.constant(deltas)).numpy()
    for out, image, delta in zip(got, images, deltas):
        expected = tf.image.adjust_hue(image, float(delta))
        np.testing.assert_allclose(out, expected, atol=COLOUR_ATOL)


def test_resize_crop_compiles_to_the_same():
    images = np.random.default_rng(1).integers(0, 256, (10, 20, 24, 3), dtype=np.uint8)
    compiled = tf.function(augment.resize_crop, jit_compile=True)
    _check_resize_crop(images, 16, atol=1.0, op=compiled, with_oracle=False)


def test_operations_run_inside_dataset_map():
    images = _test_images(32, 32)
    sigma = _per_image([0.0, 0.1, 1.0, 2.0])
    boxes = _boxes(32, 32, 8)
    flips = np.arange(8) % 2 == 1
    dataset = tf.data.Dataset.from_tensors((images, sigma, boxes, flips)).map(
        lambda x, s, box, flip: (*_finish(x, s), augment.resize_crop(x, box, flip, 16))
    )
    mapped = dataset.get_single_element()
    direct = (*_finish(tf.constant(images), sigma), augment.resize_crop(images, boxes, flips, 16))
    for got, want in zip(mapped, direct):
        np.testing.assert_allclose(got, want, atol=COLOUR_ATOL)


def test_batch_size_unknown_until_run():
    vector = tf.TensorSpec([None])
    spec = [tf.TensorSpec([None, 32, 24, 3]), tf.TensorSpec([None, 4]), vector]

    @tf.function(input_signature=spec)
    def run(images, boxes, values):
        crops = augment.resize_crop(images, boxes, values > 1, 16)
        return crops, augment.gaussian_blur(images, values), augment.adjust_contrast(images, values)

    for count in (1, 3):
        images = np.random.default_rng(8).random((count, 32, 24, 3)).astype(np.float32)
        boxes, values = _boxes(32, 24, 7)[:count], np.array([0.7, 1.5, 1.0], np.float32)[:count]
        crops, blurred, contrasted = run(images, boxes, values)
        for i, value in enumerate(values.tolist()):
            crop = oracle.resize_crop(images[i], tuple(boxes[i].astype(int)), value > 1, 16)
            np.testing.assert_allclose(crops[i], crop, atol=STEP)
            blur = oracle.gaussian_blur(images[i], value)
            np.testing.assert_allclose(blurred[i], blur, atol=1e-5)
            contrast = oracle.contrast(images[i], value)
            np.testing.assert_allclose(contrasted[i], contrast, atol=COLOUR_ATOL)


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_center_crop_resize_of_sizes_unknown_until_run(dtype):
    run = tf.function(
        lambda images: augment.center_crop_resize(images, 16, 0.875),
        input_signature=[tf.TensorSpec([None, None, None, 3], dtype)],
    )
    for height, width in ((16, 16), (40, 31), (9, 70)):
        images = np.random.default_rng(9).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        images = images if dtype == tf.uint8 else (images / 255).astype(np.float32)
        for out, image in zip(run(images).numpy(), images):
            expected = oracle.center_crop_resize(image, 16, 0.875)
            np.testing.assert_allclose(out, expected, atol=STEP)
