"""The kernel's finished views: the paper's operations, as drawn, up to float32 rounding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import augment as oracle
from tf_simclr import augment
from tf_simclr.augment import views as forms
from tf_simclr.data.draws import ViewOptions, draw_views

ATOL = 3e-6  # Against the oracles; one step of a byte is 4e-3.
AT_REST = {
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.0,
    "order": 0,
    "grayscale": False,
    "sigma": 0.0,
}
TYPES = {"order": np.int32, "grayscale": bool}
FACTORS = [0.0, 0.2, 0.7, 1.0, 1.0001, 1.5, 1.8, 3.0]
TURNS = [-0.5, -0.2, -1 / 6, -0.05, 0.0, 1 / 12, 0.17, 0.2, 1 / 3, 0.5]
SIGMAS = [0.0, 0.1, 0.399, 1.0, 2.0, 9.0]
SIDES = [(1, 1), (8, 8), (19, 19), (20, 20), (33, 33), (48, 48), (100, 100), (224, 224)]
OBLONG = [(1, 40), (40, 1), (19, 60), (20, 31), (33, 20), (48, 5), (64, 32), (5, 224), (224, 7)]


@pytest.fixture(autouse=True)
def _by_the_kernel(kernels, monkeypatch):
    monkeypatch.setattr(forms, "_has_accelerator", lambda: False)


def random_views(count, height, width, channels):
    shape = (count, height, width, channels)
    return np.random.default_rng(shape).integers(0, 256, shape, np.uint8)


def batch_of(views, **drawn):
    """A pipeline batch of `views`, in pairs, with `drawn` parameters; others change nothing."""
    count, channels = len(views), views.shape[-1]
    drawn = {name: np.resize(drawn.get(name, rest), count) for name, rest in AT_REST.items()}
    if channels != 3:
        drawn = {k: v for k, v in drawn.items() if k not in ("saturation", "hue", "grayscale")}
    batch = {k: v.astype(TYPES.get(k, np.float32)).reshape(-1, 2) for k, v in drawn.items()}
    return {"images": views.reshape(count // 2, 2, *views.shape[1:]), **batch}


def in_order(finished):
    """First and second views of each image next to each other, as in the batch."""
    return np.stack(np.split(finished, 2), axis=1).reshape(finished.shape)


def finish(views, **drawn):
    finished = augment.finish_views(batch_of(views, **drawn))
    assert finished.dtype == tf.float32 and finished.shape == views.shape
    return in_order(finished.numpy())


def by_oracle(view, **drawn):
    drawn = {**AT_REST, **drawn}
    image = view / 255.0
    if view.shape[-1] == 3:
        image = oracle.color_jitter(image, drawn, drawn["order"])
    else:
        for name in oracle.ORDERS[drawn["order"]]:
            if name in ("brightness", "contrast"):
                image = getattr(oracle, name)(image, drawn[name]).clip(0, 1)
    if drawn["grayscale"] and view.shape[-1] == 3:
        image = oracle.grayscale(image)
    return oracle.gaussian_blur(image, float(drawn["sigma"]))


def assert_finished(views, **drawn):
    got = finish(views, **drawn)
    for i, view in enumerate(views):
        one = {name: values[i % len(values)] for name, values in drawn.items()}
        expected = by_oracle(view, **one)
        np.testing.assert_allclose(got[i], expected, rtol=0, atol=ATOL, err_msg=str(one))


def telling_views(count):
    """[count, 6, 36, 3]: all pure colours, greys, almost grey pixels and noise."""
    levels = np.array(list(itertools.product([0, 1, 128, 254, 255], repeat=3)), np.uint8)
    view = random_views(1, 6, 36, 3)[0].reshape(-1, 3)
    view[:125] = levels
    view[125:150] = np.linspace(0, 255, 25).astype(np.uint8)[:, np.newaxis]
    view[150:160] = 100 + np.random.default_rng(0).integers(0, 2, [10, 3])
    return np.repeat(view.reshape(1, 6, 36, 3), count, axis=0)


# --- each operation alone ---


@pytest.mark.parametrize(
    ("name", "values"),
    [("brightness", FACTORS), ("contrast", FACTORS), ("saturation", FACTORS), ("hue", TURNS)],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_a_jitter_alone_in_all_orders(name, values):
    orders = np.arange(24).repeat(len(values))
    drawn = {name: np.tile(np.float32(values), 24), "order": orders}
    assert_finished(telling_views(len(orders)), **drawn)


def test_hues_at_the_borders_of_the_sectors():
    """Pure colours whose hue is turned to a border, and one rounding to either side of it."""
    borders = np.float32([k / 6 for k in range(-6, 7)])
    turns = np.concatenate([np.nextafter(borders, t, dtype=np.float32) for t in (-2, 2)])
    turns = np.concatenate([turns, borders, [0.0]]).astype(np.float32)
    assert_finished(telling_views(len(turns)), hue=turns)


def test_colours_leave_greys_alone():
    greys = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    for drawn in ({"hue": TURNS}, {"saturation": FACTORS}):
        got = finish(greys.repeat(10, axis=0), **drawn)
        np.testing.assert_array_equal(got, (greys * np.float32(1 / 255)).repeat(10, axis=0))


def test_grayscale_alone():
    assert_finished(telling_views(2), grayscale=[True, False])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(("height", "width"), SIDES + OBLONG)
def test_blur_alone(height, width, channels):
    assert_finished(random_views(6, height, width, channels), sigma=np.float32(SIGMAS))


def test_taps_left_out_beyond_five_sigmas_weigh_nothing():
    sigmas = np.float32([0.2, 0.99, 1.01, 3.0, 8.0, 9.0, 10.0, 30.0])  # At most 50 taps.
    assert_finished(random_views(8, 1000, 3, 1), sigma=sigmas)


def test_blur_has_23_taps_at_224():
    views = np.zeros([2, 224, 224, 3], np.uint8)
    views[:, 112, 60] = 255
    blurred = finish(views, sigma=[50.0, 1.0])
    rows, columns, _ = np.nonzero(blurred[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (101, 123, 49, 71)
    np.testing.assert_allclose(blurred.sum(axis=(1, 2)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(blurred[1, 112, 60], 1 / (2 * np.pi), rtol=1e-5)


def test_blur_darkens_the_border_as_zero_padding_does():
    got = finish(np.full([2, 224, 224, 3], 255, np.uint8), sigma=[50.0, 0.0])[0]
    taps = np.exp(-0.5 * (np.arange(-11, 12) / 50.0) ** 2)
    inside = np.convolve(np.ones(224), taps / taps.sum(), mode="same")
    expected = np.outer(inside, inside)[..., np.newaxis].repeat(3, -1)
    assert expected[0, 0, 0] < 0.28 < 0.5 < expected[0, 100, 0] < 0.54
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("height", [1, 19])
def test_below_20_pixels_there_is_no_blur(height):
    views = random_views(2, height, 100, 3)
    np.testing.assert_array_equal(finish(views, sigma=[2.0, 9.0]), finish(views))


# --- all together ---


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(6, 36), (21, 34)])
def test_everything_in_all_orders(height, width, channels):
    rng = np.random.default_rng(1)
    views = random_views(24, height, width, channels)
    if (height, channels) == (6, 3):
        views = telling_views(24)
    factors = {name: rng.uniform(0.2, 1.8, 24) for name in ("brightness", "contrast", "saturation")}
    assert_finished(
        views,
        **{name: values.astype(np.float32) for name, values in factors.items()},
        hue=rng.uniform(-0.2, 0.2, 24).astype(np.float32),
        order=np.arange(24),
        grayscale=[False, False, True],
        sigma=np.float32([0.0, 0.1, 0.7, 1.3, 2.0]),
    )


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 61)])
def test_everything_on_large_views(height, width):
    drawn = {"brightness": [1.7, 0.4], "contrast": [0.3, 1.6], "saturation": [1.8, 0.5]}
    drawn |= {"hue": [0.13, -0.2], "sigma": [0.5, 1.9]}
    drawn = {name: np.float32(values) for name, values in drawn.items()}
    assert_finished(random_views(2, height, width, 3), **drawn, order=[7, 18])


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize(("height", "width"), SIDES + OBLONG)
def test_both_forms_agree(height, width, channels):
    count = 4 if height * width > 5_000 else 16
    drawn = draw_views(ViewOptions(), channels, count, 0, 0)
    drawn = {name: value for name, value in drawn.items() if name not in ("crop", "flip")}
    views = random_views(2 * count, height, width, channels)
    batch = {"images": views.reshape(count, 2, *views.shape[1:]), **drawn}
    together = forms._finish_together({k: tf.constant(v) for k, v in batch.items()})
    np.testing.assert_allclose(augment.finish_views(batch), together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_both_forms_do_without_what_is_absent(name):
    """As `finish_views` documents, operations without parameters are off."""
    batch = batch_of(telling_views(2), **{name: [0.2, 0.4]})
    alone = {key: tf.constant(batch[key]) for key in ("images", name)}
    np.testing.assert_array_equal(augment.finish_views(alone), augment.finish_views(batch))
    np.testing.assert_allclose(
        forms._finish_together(alone), augment.finish_views(alone), atol=1e-5
    )


# --- views at rest, and where each goes ---


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(("height", "width"), SIDES + OBLONG)
def test_at_rest_a_view_is_its_bytes_over_255(height, width, channels):
    views = random_views(4, height, width, channels)
    views.reshape(-1)[:256] = np.resize(np.arange(256), min(views.size, 256))
    expected = views.astype(np.float32) * (np.float32(1) / np.float32(255))
    np.testing.assert_array_equal(finish(views, order=[0, 5, 11, 23]), expected)
    alone = augment.finish_views({"images": views.reshape(2, 2, *views.shape[1:])})
    np.testing.assert_array_equal(in_order(alone.numpy()), expected)
    beside = finish(views, brightness=[0.5, 1.0], sigma=[1.5, 0.0], grayscale=[True, False])
    np.testing.assert_array_equal(beside[1::2], expected[1::2])


def test_first_views_come_before_second():
    images = np.arange(14, dtype=np.uint8).reshape(7, 2, 1, 1, 1) * np.ones([30, 25, 3], np.uint8)
    got = augment.finish_views({"images": images, "sigma": np.zeros([7, 2], np.float32)})
    shades = np.rint(got.numpy()[:, 0, 0, 0] * 255)
    np.testing.assert_array_equal(shades, [*range(0, 14, 2), *range(1, 14, 2)])


def test_a_view_does_not_depend_on_those_beside_it():
    views = random_views(24, 40, 37, 3)
    rng = np.random.default_rng(2)
    drawn = {"brightness": rng.uniform(0.2, 1.8, 24), "hue": rng.uniform(-0.2, 0.2, 24)}
    drawn |= {"sigma": rng.uniform(0, 2, 24), "order": np.arange(24)}
    whole = finish(views, **drawn)
    for pair in np.arange(24).reshape(12, 2):
        part = finish(views[pair], **{name: values[pair] for name, values in drawn.items()})
        np.testing.assert_array_equal(part, whole[pair])


@pytest.mark.parametrize("shape", [(0, 24, 24, 3), (2, 0, 24, 3), (2, 24, 0, 3), (2, 24, 24, 0)])
def test_nothing_gives_nothing(shape):
    batch = batch_of(np.zeros(shape, np.uint8), brightness=0.5, contrast=0.5, sigma=1.0)
    assert augment.finish_views(batch).shape == shape


def test_of_sizes_unknown_until_run():
    spec = {"images": tf.TensorSpec([None, 2, 24, 20, 3], tf.uint8)}
    spec["sigma"] = tf.TensorSpec([None, 2], tf.float32)
    run = tf.function(augment.finish_views, input_signature=[spec])
    assert run.get_concrete_function().structured_outputs.shape.as_list() == [None, 24, 20, 3]
    for count in (2, 6):
        batch = batch_of(random_views(count, 24, 20, 3), sigma=[1.0, 0.0])
        batch = {name: tf.constant(batch[name]) for name in spec}
        np.testing.assert_array_equal(run(batch), augment.finish_views(batch))


@pytest.mark.parametrize("order", [-1, 24])
def test_an_order_that_does_not_exist(order):
    with pytest.raises(tf.errors.InvalidArgumentError):
        finish(random_views(2, 8, 8, 3), order=[order])


@pytest.mark.parametrize(
    ("images", "factors", "choices"),
    [
        ([], [1, 2, 5], [1, 2, 5]),
        ([2, 8, 8, 3], [1, 2, 5], [1, 2, 5]),
        ([1, 2, 8, 8], [1, 2, 5], [1, 2, 5]),
        ([1, 2, 8, 8, 3, 1], [1, 2, 5], [1, 2, 5]),
        ([1, 1, 8, 8, 3], [1, 1, 5], [1, 1, 5]),
        ([1, 3, 8, 8, 3], [1, 3, 5], [1, 3, 5]),
        ([1, 2, 8, 8, 3], [1, 2, 4], [1, 2, 5]),
        ([1, 2, 8, 8, 3], [1, 2, 5], [1, 2, 4]),
        ([1, 2, 8, 8, 3], [1, 2, 6], [1, 2, 5]),
        ([1, 2, 8, 8, 3], [1, 2, 5], [2, 2, 5]),
        ([2, 2, 8, 8, 3], [1, 2, 5], [2, 2, 5]),
        ([2, 2, 8, 8, 3], [2, 2, 5], [1, 2, 5]),
        ([1, 2, 8, 8, 3], [0, 2, 5], [1, 2, 5]),
        ([0, 2, 8, 8, 3], [1, 2, 5], [0, 2, 5]),
        ([1, 2, 8, 8, 3], [], [1, 2, 5]),
    ],
    ids=str,
)
def test_shapes_must_be_right(images, factors, choices, kernels):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"needs images \[B, 2, H, W, C\]"):
        kernels.finish_views(
            images=tf.ones(images, tf.uint8),
            factors=tf.ones(factors),
            choices=tf.ones(choices, tf.int32),
        )


@pytest.mark.parametrize(
    ("factors", "choices"), [([2, 3, 5], [3, 2, 5]), ([3, 2, 5], [2, 3, 5]), ([30], [3, 2, 5])]
)
def test_shapes_must_be_right_and_not_only_of_as_many_values(factors, choices, kernels):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"needs images \[B, 2, H, W, C\]"):
        kernels.finish_views(
            images=tf.ones([3, 2, 8, 8, 3], tf.uint8),
            factors=tf.ones(factors),
            choices=tf.ones(choices, tf.int32),
        )


@pytest.mark.parametrize("name", list(AT_REST))
def test_what_is_drawn_must_be_one_for_each_view(name):
    batch = batch_of(random_views(4, 8, 8, 3))
    for misfit in (batch[name][:1], batch[name][:, :1], batch[name].ravel()):
        with pytest.raises(tf.errors.InvalidArgumentError):
            augment.finish_views({**batch, name: misfit})


def test_the_number_of_views_is_known_to_the_graph():
    """Micro-batches and the doctor's estimate depend on it."""
    spec = {"images": tf.TensorSpec([6, 2, 8, 8, 3], tf.uint8)}
    traced = tf.function(augment.finish_views).get_concrete_function(spec)
    assert traced.structured_outputs.shape == [12, 8, 8, 3]
