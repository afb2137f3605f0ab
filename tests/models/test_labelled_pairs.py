"""Losses that need labels: the batches that carry them, and what reaches the loss."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.models.recompute_cases import BATCH, RATE, VIEWS, assert_same, network
from tests.replicas import mirrored
from tests.toy_loss import Pull
from tf_simclr import array_source, losses, two_view_dataset
from tf_simclr.errors import UserError
from tf_simclr.models.inputs import Pairs
from tf_simclr.models.simclr import SimCLR

LABELS = np.arange(BATCH) % 3
A, B = VIEWS
SPEC = tf.TensorSpec([None, *A.shape[1:]], tf.float32)
PROBE = (A[:4], LABELS[:4] % 2)
TOLERANCE = 1e-3  # Embeddings of an untrained network are so alike that their gradients cancel.
OPTIONS = [
    {},
    {"skip_bad_steps": True},
    {"micro_batch_size": 6},
    {"rematerialize": True},
    {"micro_batch_size": 6, "rematerialize": True},
]


def model_of(**options):
    model = SimCLR(*network(), loss=losses.SupervisedContrastive(0.5), **options)
    model.compile(tf.keras.optimizers.SGD(RATE))
    return model


def plain_step():
    """(value, gradients) from one tape over the whole batch."""
    encoder, head = network()
    with tf.GradientTape() as tape:
        a, b = (head(encoder(view, training=True), training=True) for view in VIEWS)
        loss = losses.supervised(a, b, LABELS, 0.5).loss
    return float(loss), tape.gradient(loss, encoder.trainable_variables + head.trainable_variables)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_labels_of_a_batch_reach_the_loss(options, jit_compile):
    model = model_of(**options)
    before = [v.numpy() for v in model.learned_variables]
    batch = tf.nest.map_structure(tf.constant, ((A, B), LABELS))
    tf.function(model.train_step, jit_compile=jit_compile)(batch)
    moved = [(b - v.numpy()) / RATE for b, v in zip(before, model.learned_variables)]
    assert_same((float(model.metrics[0].result()), moved), plain_step(), TOLERANCE)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_and_those_of_all_replicas(options):
    strategy = mirrored(2)
    with strategy.scope():
        model = model_of(**options)
    rows = [np.split(v, 2) for v in (*VIEWS, LABELS)]

    def share(context):
        a, b, labels = (tf.constant(v[context.replica_id_in_sync_group]) for v in rows)
        return (a, b), labels

    before = [v.numpy() for v in model.learned_variables]
    batch = strategy.experimental_distribute_values_from_function(share)
    tf.function(lambda data: strategy.run(model.train_step, (data,)))(batch)
    moved = [(b - v.numpy()) / RATE for b, v in zip(before, model.learned_variables)]
    assert_same((float(model.metrics[0].result()), moved), plain_step(), TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 6}], ids=str)
def test_evaluation_uses_them_and_reports_no_accuracies(options):
    model = model_of(**options)
    logs = model.test_step(tf.nest.map_structure(tf.constant, ((A, B), LABELS)))
    a, b = (model.projection_head(model.encoder(view)) for view in VIEWS)
    expected = losses.supervised(a, b, LABELS, 0.5).loss
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    assert "contrastive_top1" not in logs


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize(
    "pairs",
    [((A, B), LABELS), ({"left": A, "right": B}, LABELS), ([A, B], LABELS.astype(np.uint8))],
    ids=["tuple", "dict", "list"],
)
def test_forms_of_pairs_with_labels(pairs, probe):
    views, labelled, labels = Pairs(SPEC, probe, 1, True).take((pairs, PROBE) if probe else pairs)
    np.testing.assert_array_equal(views[0], A)
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == tf.int64
    assert (labelled is not None) == probe
    if probe:
        np.testing.assert_array_equal(labelled[1], PROBE[1])


@pytest.mark.parametrize("probe", [False, True])
def test_the_form_of_keras_cv(probe):
    batch = {"augmented_images_0": A, "augmented_images_1": B, "images": A, "labels": LABELS}
    views, labelled, labels = Pairs(SPEC, probe, 1, True).take(batch)
    np.testing.assert_array_equal(views[1], B)
    np.testing.assert_array_equal(labels, LABELS)
    assert (labelled is not None) == probe


@pytest.mark.parametrize("probe", [False, True])
def test_batches_of_the_pipeline(probe):
    images = np.zeros([8, 6, 6, 3], np.uint8)
    source = array_source(images, np.arange(8) % 3)
    batch = next(iter(two_view_dataset(source, batch_size=8, image_size=6, labels=True)))
    spec = tf.TensorSpec([None, 6, 6, 3])
    for needed in (False, True):
        data = (batch, (images[:2], np.arange(2))) if probe else batch
        views, _, labels = Pairs(spec, probe, 1, needed).take(data)
        assert "label" not in views and views["images"].shape == (8, 2, 6, 6, 3)
        assert (labels is not None) == needed


@pytest.mark.parametrize(
    ("data", "probe", "message"),
    [
        ((A, B), False, r"\(\(view_a, view_b\), labels\).*as its loss needs labels; received"),
        (((A, B), PROBE), True, r"when it has a probe; .*labels=True.*needs labels; received"),
        (((A, B), LABELS), True, "when it has a probe; .*needs labels; received"),
        (
            ((A, B), LABELS[:3]),
            False,
            rf"labels of the views must be .*integers \[{BATCH}\]; received",
        ),
        (((A, B), LABELS / 2), False, "labels of the views must be .* received .*float64"),
        (((A, B), np.eye(BATCH)), False, "labels of the views must be .*; received"),
    ],
    ids=["none", "probe's only", "views' only", "too few", "floats", "one-hot"],
)
def test_pairs_without_labels_are_refused(data, probe, message):
    with pytest.raises(UserError, match=message):
        Pairs(SPEC, probe, 1, True).take(data)


def test_keras_fit(tmp_path):
    model = model_of(probe_classes=2)
    data = tf.data.Dataset.from_tensors((((A, B), LABELS), PROBE))
    logs = model.fit(data, epochs=2, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and "probe_top1" in logs
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.contrastive_loss, losses.SupervisedContrastive)
    with pytest.raises(UserError, match="needs labels; received"):
        model_of().fit(tf.data.Dataset.from_tensors((A, B)), verbose=0)
    model_of().fit((A, B), LABELS, batch_size=BATCH, verbose=0)


def test_a_loss_of_ones_own_may_need_labels():
    seen = []

    class Labelled(Pull):
        needs_labels = True

        def contrast(self, z_a, z_b, labels):
            seen.append(labels.shape)
            return super().contrast(z_a, z_b)

    model = SimCLR(*network(), loss=Labelled())
    model.compile("sgd")
    model.fit((A, B), LABELS, batch_size=BATCH, verbose=0)
    assert seen and all(shape == (BATCH,) or shape == (None,) for shape in seen)
