"""Inputs of SimCLR: what it trains and predicts on, and what raises before the first step."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.data.experimental.ops import distribute

from tests.replicas import mirrored
from tf_simclr.errors import UserError
from tf_simclr.models.first_batches import checked
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.inputs import Images, Pairs
from tf_simclr.models.simclr import SimCLR

layers = tf.keras.layers
A, B = np.random.default_rng(0).random([2, 8, 6, 6, 3]).astype(np.float32)
BYTES_A, BYTES_B = (np.uint8(255 * view) for view in (A, B))
LABELS = np.arange(8) % 3
SPEC = tf.TensorSpec([None, 6, 6, 3], tf.float32)
KERAS_CV = {
    "images": A,
    "labels": LABELS,
    "augmented_images_0": A,
    "augmented_images_1": B,
}


def model_of(**options):
    tf.keras.utils.set_random_seed(1)
    images = layers.Input([6, 6, 3])
    x = layers.Conv2D(4, 3, activation="relu")(images)
    encoder = tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))
    model = SimCLR(encoder, ProjectionHead(1, 4), temperature=0.5, **options)
    model.compile(tf.keras.optimizers.SGD(0.1))
    return model


@pytest.fixture(scope="module")
def trained():
    """A shared model for inputs that raise before its weights could change."""
    return model_of()


def dataset_of(data, batch_size=4):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize(
    "views",
    [(A, B), [A, B], ((A, B),), {"left": A, "right": B}, (BYTES_A, BYTES_B)],
    ids=["tuple", "list", "wrapped", "dict", "uint8"],
)
def test_forms_of_two_views(views, probe):
    labelled = (A, LABELS)
    data = (views, labelled) if probe else views
    taken, rest, labels = Pairs(SPEC, probe, 1).take(data)
    assert [x.shape for x in taken] == [(8, 6, 6, 3)] * 2
    assert (rest is not None) == probe and labels is None
    if not probe:  # Labels are ignored.
        assert Pairs(SPEC, False, 1).take((views, LABELS))[1:] == (None, None)


@pytest.mark.parametrize("probe", [False, True])
def test_the_form_of_keras_cv(probe):
    views, labelled, _ = Pairs(SPEC, probe, 1).take(KERAS_CV)
    np.testing.assert_array_equal(views[0], A)
    np.testing.assert_array_equal(views[1], B)
    assert (labelled is not None) == probe


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (A, r"two views \(view_a, view_b\).*received \(8, 6, 6, 3\) float32"),
        ((A, LABELS), r"two views.*received \(\(8, 6, 6, 3\) float32, \(8,\) int64\)"),
        ((A, B, A), "two views.*received"),
        (((A, B), LABELS, np.ones(8)), "two views.*received"),
        ({"images": A, "labels": LABELS}, "two views.*received {'images'"),
        ({"a": A, "b": B, "c": A}, "two views.*received {'a'"),
        ("photos", "two views.*received 'photos'"),
        ((A, B[:4]), r"received \(8, 6, 6, 3\) float32 and \(4, 6, 6, 3\) float32"),
        ((A, B[:, :4]), r"\(N, 6, 6, 3\) that the encoder takes.*\(8, 4, 6, 3\)"),
        ((A[..., :1], B[..., :1]), r"\(N, 6, 6, 3\) that the encoder takes.*\(8, 6, 6, 1\)"),
        ((A[0], B[0]), r"\(N, 6, 6, 3\) that the encoder takes.*\(6, 6, 3\)"),
        ((np.int32(BYTES_A), np.int32(BYTES_B)), "uint8 in \\[0, 255\\] or floats.*received int32"),
        ((A > 0.5, B > 0.5), "uint8 in \\[0, 255\\] or floats.*received bool"),
        ({"images": np.zeros([8, 2, 4, 4, 3], np.uint8)}, r"uint8 images \(N, 2, 6, 6, 3\)"),
        ({"images": np.zeros([8, 2, 6, 6, 3], np.float32)}, "must give .* uint8 images"),
    ],
)
def test_other_forms_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        Pairs(SPEC, False, 1).take(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((A, B), r"\(views, \(images, labels\)\) when it has a probe"),
        (((A, B), LABELS), r"\(views, \(images, labels\)\) when it has a probe"),
        ({k: v for k, v in KERAS_CV.items() if k != "labels"}, "when it has a probe"),
        (((A, B), (A[:, :4], LABELS)), "labelled images must have the shape"),
        (((A, B), (A, np.eye(3)[LABELS])), r"integers \[N\]; received \(8, 3\) float64"),
        (((A, B), (A, LABELS[:, None])), r"integers \[N\]; received \(8, 1\) int64"),
        (((A, B), (A, 1.0 * LABELS)), r"integers \[N\]; received \(8,\) float64"),
    ],
)
def test_what_a_probe_needs(data, message):
    with pytest.raises(UserError, match=message):
        Pairs(SPEC, True, 1).take(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [(A[0], r"\(N, 6, 6, 3\)"), ({"images": A}, "predicts on images"), (LABELS, "received")],
)
def test_images_to_predict_on(data, message):
    assert Images(SPEC).take((A, LABELS)) is not None
    with pytest.raises(UserError, match=message):
        Images(SPEC).take(data)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_dtypes_train_alike(dtype):
    # Rounded to float16 first, so that all three get the same numbers.
    a, b = np.float16(A), np.float16(B)
    expected = model_of().train_on_batch(np.float32(a), np.float32(b))
    got = model_of().train_on_batch(a.astype(dtype), b.astype(dtype))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_bytes_mean_the_same_everywhere():
    model, scaled = model_of(probe_classes=3), BYTES_A / np.float32(255)
    np.testing.assert_allclose(
        model.predict(BYTES_A, verbose=0), model.predict(scaled, verbose=0), atol=1e-6
    )
    np.testing.assert_allclose(model(BYTES_A), model(scaled), atol=1e-6)
    logs = []
    for views in ((BYTES_A, BYTES_B), (scaled, BYTES_B / np.float32(255))):
        data = dataset_of((views, (views[0], np.uint8(LABELS))), 8)
        logs.append(model_of(probe_classes=3).fit(data, verbose=0).history)
    for name, values in logs[0].items():
        np.testing.assert_allclose(values, logs[1][name], rtol=1e-4, err_msg=name)


class Batches(tf.keras.utils.Sequence):
    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        return self.batches[i]


def sources_of(views):
    """The kinds of input from which `fit` reads views."""
    return {
        "arrays": views,
        "dataset": dataset_of(views),
        "generator": (views for _ in range(2)),
        "sequence": Batches(views, views),
    }


@pytest.mark.parametrize("source", ["arrays", "dataset", "generator", "sequence"])
@pytest.mark.parametrize(
    ("views", "message"),
    [
        ((255 * A, 255 * B), "values from .* to 25"),
        (((A - 0.5) / 0.2, (B - 0.5) / 0.2), "values from -2.* to 2"),
        ((A, 255 * B), "values from .* to 25"),
        ((A, np.where(A > 0.9, np.nan, 255 * B)), "values from .* to 25"),
    ],
)
def test_views_of_another_range_are_refused(trained, source, views, message):
    before = trained.encoder.get_weights()
    with pytest.raises(UserError, match=message):
        trained.fit(sources_of(views)[source], verbose=0)
    for old, new in zip(before, trained.encoder.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_a_later_batch_of_another_range_is_refused():
    later = np.concatenate([A, A, 255 * A]), np.concatenate([B, B, B])
    with pytest.raises(UserError, match="in \\[0, 1\\] or uint8; received values from 0.* to 2"):
        model_of().fit(dataset_of(later), verbose=0)


def test_an_endless_data_set_needs_a_number_of_steps(trained):
    endless = dataset_of((A, B)).repeat()
    with pytest.raises(
        ValueError, match="an infinite dataset, you must specify the number of steps"
    ):
        trained.fit(endless, verbose=0)
    assert len(model_of().fit(endless, steps_per_epoch=3, verbose=0).history["loss"]) == 1


@pytest.mark.parametrize(
    "data",
    [
        dataset_of((A, B)),
        dataset_of(((A, B),)),
        dataset_of({"a": A, "b": B}),
        dataset_of((A, B)).repeat(),
        dataset_of((A, B)).filter(lambda a, b: True),
    ],
    ids=["tuple", "wrapped", "dict", "endless", "unknown"],
)
def test_a_data_set_stays_what_it_was(data):
    with checked(Pairs(SPEC, False, 1), data, None, None) as given:
        assert given is not data
        assert given.element_spec == data.element_spec
        assert given.cardinality() == data.cardinality()


@pytest.mark.parametrize("batched_first", [True, False])
def test_a_data_set_of_files_is_sharded_by_file(batched_first, tmp_path):
    files = [str(tmp_path / f"{i}.tfrecord") for i in range(2)]
    for i, file in enumerate(files):
        with tf.io.TFRecordWriter(file) as writer:
            for view in A[4 * i : 4 * i + 4]:
                writer.write(view.tobytes())

    def views(record):
        view = tf.reshape(tf.io.decode_raw(record, tf.float32), [-1, 6, 6, 3])
        return view, view

    data = tf.data.TFRecordDataset(files)
    if batched_first:
        data = data.batch(2, drop_remainder=True).map(lambda records: views(records))
    else:
        data = data.map(views).unbatch().batch(2, drop_remainder=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    with checked(Pairs(SPEC, False, 1), data.with_options(options), None, None) as given:
        for i in range(2):
            shard = [view for view, _ in distribute._AutoShardDataset(given, 2, i).unbatch()]
            np.testing.assert_array_equal(shard, A[4 * i : 4 * i + 4])


def test_every_batch_of_a_generator_is_trained_on():
    ended = []
    count = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda i, _: ended.append(i))
    model_of().fit(((A, B) for _ in range(3)), callbacks=[count], verbose=0)
    assert ended == [0, 1, 2]


@pytest.mark.parametrize("views", [(1.2 * A - 0.1, B), (np.zeros_like(A), np.ones_like(B))])
def test_views_a_little_outside_are_taken(views):
    model_of().fit(dataset_of(views), verbose=0)


def test_evaluation_and_prediction_check_their_images_too(trained):
    with pytest.raises(UserError, match="values from"):
        trained.evaluate(255 * A, 255 * B, verbose=0)
    with pytest.raises(UserError, match="values from"):
        trained.predict(255 * A, verbose=0)
    with pytest.raises(UserError, match="values from"):
        trained.predict(dataset_of(255 * A), verbose=0)
    assert trained.predict(dataset_of((A, LABELS)), verbose=0).shape == (8, 4)


@pytest.mark.parametrize("weights", [{"sample_weight": np.ones(8)}, {"class_weight": {0: 2.0}}])
def test_weights_of_images_are_refused(trained, weights):
    with pytest.raises(UserError, match=f"does not weigh images; received {next(iter(weights))}"):
        trained.fit(A, B, **weights)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_last_batch_of_one_pair_counts_where_it_can(run_eagerly):
    logs = []
    for rows in (4, 5):
        model = model_of()
        model.compile(tf.keras.optimizers.SGD(0.0), run_eagerly=run_eagerly)
        logs.append(model.fit(dataset_of((A[:rows], B[:rows])), verbose=0, shuffle=False).history)
    for name in logs[0].keys() - {"alignment"}:
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=1e-5, err_msg=name)
    assert np.isfinite(logs[1]["alignment"]).all()


def test_batches_of_one_pair_are_refused(trained):
    for data in (
        {"x": A, "y": B, "batch_size": 1},
        {"x": dataset_of((A, B)).unbatch().batch(1, True)},
    ):
        with pytest.raises(UserError, match="at least two pairs in a batch"):
            trained.fit(**data, verbose=0)


def test_replicas_that_would_get_unequal_batches():
    """They would wait for each other, or confuse their own views with those of others."""
    with mirrored(2).scope():
        model = model_of()
    drop = {"drop_remainder": True}
    views = tf.data.Dataset.from_tensor_slices((A, B))
    for data, message in (
        ({"x": A[:5], "y": B[:5], "batch_size": 4}, "5 rows, which make batches of 4 and one of 1"),
        ({"x": A[:1], "y": B[:1]}, "received batches of 1"),
        ({"x": views.batch(4)}, "of unknown size"),
        ({"x": views.batch(3, **drop)}, "received batches of 3"),
        ({"x": views.map(lambda a, b: (255 * a, b)).batch(4, **drop)}, "values from"),
    ):
        with pytest.raises(UserError, match=message):
            model.fit(**data, verbose=0)
    for data in ({"x": A, "y": B, "batch_size": 4}, {"x": views.batch(2, **drop)}):
        assert np.isfinite(model.fit(**data, verbose=0).history["loss"]).all()


@pytest.fixture(scope="module")
def shared():
    """A model on two replicas whose weights do not change, so that losses can be compared."""
    with mirrored(2).scope():
        model = model_of()
        model.compile(tf.keras.optimizers.SGD(0.0))
    return model


def parts(*sizes):
    """Consecutive batches of these sizes, from the first row on."""
    ends = np.cumsum(sizes)
    return [(A[end - n : end], B[end - n : end]) for n, end in zip(sizes, ends)]


@pytest.mark.parametrize("sizes", [(4, 2), (2, 2, 4)])
@pytest.mark.parametrize("kind", [iter, lambda batches: Batches(*batches)])
def test_replicas_share_the_batches_of_python(shared, kind, sizes):
    got = shared.fit(kind(parts(*sizes)), shuffle=False, verbose=0).history
    alone = model_of()
    alone.set_weights(shared.get_weights())
    alone.compile(tf.keras.optimizers.SGD(0.0))
    expected = alone.fit(iter(parts(*sizes)), verbose=0).history
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (lambda: iter(parts(3, 4)), 3),
        (lambda: iter(parts(4, 3)), 3),
        (lambda: iter(parts(2, 2, 1)), 1),
        (lambda: iter([((a, b), np.ones(len(a))) for a, b in parts(4, 3)]), 3),
        (lambda: Batches(*parts(3, 4)), 3),
        (lambda: Batches(*parts(4, 4)[:1], *parts(4, 3)[1:]), 3),
    ],
)
@pytest.mark.parametrize("use", ["fit", "evaluate"])
def test_replicas_refuse_unequal_batches_of_python(shared, use, data, rows):
    message = f"all 2 replicas need .* received (a batch|batches) of {rows}"
    with pytest.raises(UserError, match=message):
        getattr(shared, use)(data(), verbose=0)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (6, {"batch_size": 4}),
        (8, {"batch_size": 4, "validation_split": 0.25}),
        (5, {"batch_size": 4, "steps_per_epoch": 1}),
        (7, {"batch_size": 2, "steps_per_epoch": 1, "epochs": 3}),
        (7, {"batch_size": 2, "steps_per_epoch": 1, "epochs": 5, "initial_epoch": 2}),
        (8, {"steps_per_epoch": 2}),
        (7, {"batch_size": 2, "validation_split": 0.4, "validation_steps": 1}),
    ],
)
def test_arrays_that_replicas_share(shared, rows, options):
    history = shared.fit(A[:rows], B[:rows], verbose=0, **options).history
    assert np.isfinite(sum(history.values(), [])).all()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (7, {"batch_size": 4}, "7 rows, which make batches of 4 and one of 3"),
        (8, {"batch_size": 4, "validation_split": 0.375}, "5 rows.*batches of 4 and one of 1"),
        (7, {"batch_size": 4, "validation_split": 0.4}, "received batches of 3"),
        (6, {"batch_size": 2, "validation_split": 0.6, "validation_batch_size": 3}, "of 3"),
        (7, {"batch_size": 2, "validation_split": 0.4}, "3 rows.*of 2 and one of 1"),
        (5, {"batch_size": 4, "steps_per_epoch": 2}, "5 rows.*batches of 4 and one of 1"),
        # Keras continues in the next epoch where this one ends.
        (5, {"batch_size": 4, "steps_per_epoch": 1, "epochs": 2}, "5 rows.*and one of 1"),
        (6, {"steps_per_epoch": 2}, "received batches of 3"),
    ],
)
def test_arrays_that_replicas_cannot_share(shared, rows, options, message):
    with pytest.raises(UserError, match=message):
        shared.fit(A[:rows], B[:rows], verbose=0, **options)


def test_steps_of_an_evaluation_that_end_before_the_rest(shared):
    shared.evaluate(A[:5], B[:5], batch_size=4, steps=1, verbose=0)
    with pytest.raises(UserError, match="5 rows"):
        shared.evaluate(A[:5], B[:5], batch_size=4, verbose=0)
