"""The two-view pipeline is a pure function of (seed, step), however the work is divided."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import finish_views, views
from tf_simclr.data import pipeline
from tf_simclr.data.draws import (
    ViewOptions,
    crop_box,
    draw_finishing,
    draw_views,
    example_indices,
)
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.data.pipeline import labelled_dataset, two_view_dataset
from tf_simclr.data.sources import array_source
from tf_simclr.data.stores import ArrayStore
from tf_simclr.errors import UserError


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, [50, 12, 12, 3], np.uint8)


@pytest.fixture(scope="module")
def source(images):
    return array_source(images, labels=np.arange(50) % 5)


class Encoded:
    """A source that loads one image at a time, each of its own size."""

    name, channels, images, class_names = "encoded", 3, None, ("a", "b")
    image_shape = None
    num_examples = 20
    labels = np.arange(20) % 2

    def load(self, index):
        side = tf.cast(index, tf.int32) + 5
        return tf.fill([side, side + 3, 3], tf.cast(index * 10, tf.uint8))


class OneByOne(ArrayStore):
    """An array store that does not report that all images have the same shape."""

    image_shape = property(lambda self: None, lambda self, shape: None)


def batches(source, count=1, **options):
    options = {"batch_size": 8, "image_size": 16, **options}
    return [
        {name: value.numpy() for name, value in batch.items()}
        for batch in two_view_dataset(source, **options).take(count)
    ]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("kind", ["memory", "encoded"])
def test_starts_at_any_step_at_once(kind, source):
    source = source if kind == "memory" else Encoded()
    unbroken = batches(source, 9, seed=3)
    for step in (1, 7):
        assert_same(unbroken[step], batches(source, 1, seed=3, start_step=step)[0])


@pytest.mark.parametrize("kind", ["memory", "encoded"])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_device_gets_what_was_drawn_for_the_global_batch(kind, strength, source):
    source = source if kind == "memory" else Encoded()
    context = tf.distribute.InputContext(2, 1, 4)  # Replicas 2 and 3 of 4: rows 4 to 7 of 8.
    options = {"color_jitter_strength": strength}
    made = batches(source, 4, seed=2, start_step=5, input_context=context, **options)
    for number, batch in enumerate(made):
        step, first = 5 + number // 2, 4 + number % 2 * 2
        drawn = draw_finishing(ViewOptions(**options), 3, 8, 2, step)
        assert batch.keys() == {"images", *drawn} and len(drawn) == (7 if strength else 2)
        for name, values in drawn.items():
            np.testing.assert_array_equal(batch[name], values[first : first + 2], err_msg=name)


def test_only_crops_and_flips_are_carried_through_decoding(monkeypatch):
    seen = []
    decode = pipeline._decode_and_crop
    monkeypatch.setattr(
        pipeline,
        "_decode_and_crop",
        lambda source, drawn, *rest: seen.append(set(drawn)) or decode(source, drawn, *rest),
    )
    two_view_dataset(Encoded(), batch_size=8, image_size=16)
    assert seen and all(names == {"index", "crop", "flip", "share"} for names in seen)


def test_seed_and_step_change_everything(source):
    (a, b), (c,) = batches(source, 2, seed=0), batches(source, 1, seed=1)
    for other in (b, c):
        for name in ("images", "brightness", "hue", "sigma"):
            assert not np.array_equal(a[name], other[name])


def test_the_two_views_differ(source):
    batch = batches(source)[0]
    assert not np.array_equal(batch["images"][:, 0], batch["images"][:, 1])
    assert not np.array_equal(batch["hue"][:, 0], batch["hue"][:, 1])


@pytest.mark.parametrize("kind", ["memory", "encoded"])
@pytest.mark.parametrize(("replicas", "hosts"), [(2, 1), (4, 1), (4, 2)])
def test_replicas_share_the_same_global_batch(kind, replicas, hosts, source):
    source = source if kind == "memory" else Encoded()
    whole = batches(source, 3)
    local = replicas // hosts
    for host in range(hosts):
        context = tf.distribute.InputContext(hosts, host, replicas)
        shares = batches(source, 3 * local, input_context=context)
        for step in range(3):
            for i in range(local):
                share = 8 // replicas
                first = (host * local + i) * share
                expected = {k: v[first : first + share] for k, v in whole[step].items()}
                assert_same(expected, shares[step * local + i])


@pytest.mark.parametrize("kind", ["memory", "encoded"])
def test_any_number_of_threads_makes_the_same_batches(kind, source):
    source = source if kind == "memory" else Encoded()
    made = []
    for threads in (1, 8):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.autotune.cpu_budget = threads  # Limits the parallel calls of AUTOTUNE.
        dataset = two_view_dataset(source, batch_size=8, image_size=16, seed=2)
        dataset = dataset.with_options(options).take(6)
        made.append([{k: v.numpy() for k, v in batch.items()} for batch in dataset])
    assert [len(batches) for batches in made] == [6, 6]
    for one, eight in zip(*made):
        assert_same(one, eight)


@pytest.mark.parametrize("image_size", [16, 40])  # Without and with a blur.
@pytest.mark.parametrize("replicas", [2, 4])
def test_finished_views_do_not_depend_on_the_share(replicas, image_size, source):
    batch = batches(source, image_size=image_size)[0]
    whole = np.stack(tf.split(finish_views(batch), 2), axis=1)
    share = 8 // replicas
    for first in range(0, 8, share):
        part = {name: value[first : first + share] for name, value in batch.items()}
        finished = np.stack(tf.split(finish_views(part), 2), axis=1)
        np.testing.assert_array_equal(finished, whole[first : first + share])


def test_both_forms_of_finish_views_agree(source, monkeypatch):
    batch = batches(source, image_size=48)[0]
    in_turn = finish_views(batch)
    monkeypatch.setattr("tf_simclr.augment.views._has_accelerator", lambda: True)
    together = finish_views({name: tf.constant(value) for name, value in batch.items()})
    np.testing.assert_allclose(in_turn, together, atol=1e-5)


@pytest.mark.parametrize("kind", ["memory", "encoded"])
def test_has_no_end(kind, source):
    source = source if kind == "memory" else Encoded()
    for make in (two_view_dataset, labelled_dataset):
        dataset = make(source, batch_size=8, image_size=16)
        assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_every_epoch_is_a_new_order_without_repeats():
    orders = []
    for epoch in range(3):
        steps = [example_indices(50, 8, 4, epoch * 6 + s).numpy() for s in range(6)]
        order = np.concatenate(steps)
        assert len(set(order)) == 48 and order.min() >= 0 and order.max() < 50
        orders.append(tuple(order))
    assert len(set(orders)) == 3


def test_finish_views_stacks_first_views_before_second(images):
    source = array_source(images)
    options = {"color_jitter_strength": 0.0, "grayscale_probability": 0.0, "blur": False}
    batch = next(iter(two_view_dataset(source, batch_size=8, image_size=16, **options)))
    assert set(batch) == {"images"}
    views = finish_views(batch).numpy()
    expected = np.concatenate([batch["images"][:, 0], batch["images"][:, 1]]) / np.float32(255)
    np.testing.assert_allclose(views, expected, atol=1e-6)


def test_all_augmentations_keep_the_range(source):
    for batch in two_view_dataset(source, batch_size=25, image_size=24).take(4):
        views = finish_views(batch).numpy()
        assert views.shape == (50, 24, 24, 3) and views.dtype == np.float32
        assert views.min() >= 0.0 and views.max() <= 1.0 + 1e-6


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_colour_only_operations_are_left_out_unless_rgb(channels):
    images = np.zeros([10, 8, 8, channels], np.uint8)
    batch = next(iter(two_view_dataset(array_source(images), batch_size=4, image_size=8)))
    assert not {"saturation", "hue", "grayscale"} & set(batch)
    assert {"brightness", "contrast", "order"} <= set(batch)
    assert finish_views(batch).shape == (8, 8, 8, channels)


def test_a_whole_crop_is_the_image(images):
    source = array_source(images)
    options = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "flip_probability": 0.0}
    batch = next(iter(two_view_dataset(source, batch_size=8, image_size=12, seed=5, **options)))
    index = example_indices(50, 8, 5, 0).numpy()
    np.testing.assert_array_equal(batch["images"][:, 0].numpy(), images[index])


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_flip_mirrors_left_to_right(one_by_one, together, images, monkeypatch):
    source = array_source(images)
    if one_by_one:
        source = source.with_store(OneByOne(images, str))
    monkeypatch.setattr(views, "_has_accelerator", lambda: together)
    options = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "flip_probability": 0.5}
    options.update(color_jitter_strength=0.0, grayscale_probability=0.0, blur=False)
    batch = next(iter(two_view_dataset(source, batch_size=8, image_size=12, seed=5, **options)))
    expected = np.tile(images[example_indices(50, 8, 5, 0).numpy()], [2, 1, 1, 1])
    flipped = draw_views(ViewOptions(), 3, 8, 5, 0)["flip"].numpy().T.ravel()
    assert 0 < flipped.sum() < 16
    expected[flipped] = expected[flipped][:, :, ::-1]
    np.testing.assert_allclose(finish_views(batch), expected / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (100, 37), (1, 1), (50, 2000), (3, 1)])
def test_crops_lie_inside_and_follow_their_laws(height, width):
    uniforms = draw_views(ViewOptions(), 3, 2000, 0, 0)["crop"]
    boxes = crop_box(uniforms, height, width, ViewOptions()).numpy().reshape(-1, 4)
    top, left, h, w = boxes.T
    assert (h >= 1).all() and (w >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    if 30 < min(height, width) and max(height, width) < 200:
        share = h * w / (height * width)
        assert share.min() > 0.06 and np.abs(np.log(w / h)).max() < np.log(4 / 3) + 0.2


def test_long_images_fall_back_to_the_largest_centred_crop():
    uniforms = tf.fill([1, 10, 4], 0.999)
    box = crop_box(uniforms, 50, 2000, ViewOptions()).numpy()[0]
    np.testing.assert_array_equal(box, [0, (2000 - 67) // 2, 50, 67])


def test_labels_go_with_their_images(images):
    labels = np.arange(50) % 5
    source = array_source(images, labels=labels)
    dataset = labelled_dataset(
        source, batch_size=10, image_size=12, random_crop=False, flip_probability=0.0
    )
    for got, label in dataset.take(6):
        for image, name in zip(got.numpy(), label.numpy()):
            (match,) = np.flatnonzero((np.abs(images / 255.0 - image) < 1e-3).all(axis=(1, 2, 3)))
            assert labels[match] == name


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
def test_pairs_carry_the_labels_of_their_images(replicas, one_by_one):
    images = np.tile(np.arange(20, dtype=np.uint8)[:, None, None, None] * 10, [1, 6, 6, 3])
    source = array_source(images, labels=(np.arange(20) * 7) % 20)
    if one_by_one:
        source = source.with_store(OneByOne(images, str))
    context = tf.distribute.InputContext(1, 0, replicas)
    options = {"batch_size": 8, "image_size": 6, "start_step": 3, "seed": 2}
    labelled = two_view_dataset(source, labels=True, input_context=context, **options)
    plain = two_view_dataset(source, input_context=context, **options)
    for batch, same in zip(labelled.take(2 * replicas), plain):
        label = batch.pop("label")
        assert label.dtype == tf.int64 and label.shape == (8 // replicas,)
        of_image = batch["images"][:, 0, 0, 0, 0].numpy().astype(int) // 10
        np.testing.assert_array_equal(label, of_image * 7 % 20)
        assert batch.keys() == same.keys()
        np.testing.assert_array_equal(batch["images"], same["images"])
    with pytest.raises(UserError, match="has no labels, which this needs"):
        two_view_dataset(array_source(images), labels=True, **options)


def test_eval_sees_every_image_once_in_order(images):
    got = np.concatenate(list(eval_dataset(array_source(images), batch_size=16, image_size=12)))
    np.testing.assert_allclose(got, images / 255.0, atol=1e-5)


def test_bad_arguments_are_named(source, images):
    with pytest.raises(UserError, match=r"batch_size must lie in \[1, 50\].*received 51"):
        two_view_dataset(source, batch_size=51, image_size=8)
    with pytest.raises(UserError, match="batch_size=9 is not divisible by the 2 replicas.*: 8"):
        context = tf.distribute.InputContext(1, 0, 2)
        two_view_dataset(source, batch_size=9, image_size=8, input_context=context)
    with pytest.raises(UserError, match="image_size must be positive; received 0"):
        two_view_dataset(source, batch_size=8, image_size=0)
    with pytest.raises(UserError, match="has no labels"):
        labelled_dataset(array_source(images), batch_size=8, image_size=8)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("flip_probability", 1.5),
        ("color_jitter_strength", -0.1),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 0.2)),
        ("crop_aspect", (2.0, 1.0)),
    ],
)
def test_bad_view_options_are_named(option, value):
    with pytest.raises(UserError, match=option):
        ViewOptions(**{option: value})
    assert option in {field.name for field in dataclasses.fields(ViewOptions)}


def test_both_ways_of_rounding_have_the_same_bits():
    near = np.float32(np.arange(-2, 259, 0.5))
    values = np.concatenate(
        [near, np.nextafter(near, np.float32(-1e9)), np.nextafter(near, np.float32(1e9))]
    )
    values = tf.constant(np.concatenate([values, np.float32([-1e30, 1e30, -np.inf, np.inf])]))
    np.testing.assert_array_equal(pipeline._rounded(values), pipeline._to_uint8(values))
    whole = tf.range(256.0)
    np.testing.assert_array_equal(pipeline._rounded(whole + 0.25), np.arange(256))
