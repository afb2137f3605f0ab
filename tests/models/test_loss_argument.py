"""SimCLR's argument `loss`: any `ContrastiveLoss` can be trained, is reported and is saved."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.models.recompute_cases import BATCH, RATE, VIEWS, assert_same, network, step
from tests.replicas import mirrored
from tests.toy_loss import Pull
from tf_simclr import losses
from tf_simclr.checkpoints.safe_config import check_config
from tf_simclr.errors import UserError
from tf_simclr.losses import Contrast, ContrastiveLoss, contrast_of
from tf_simclr.models.simclr import SimCLR

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
OPTIONS = [
    {},
    {"skip_bad_steps": True},
    {"micro_batch_size": 6},
    {"rematerialize": True},
    {"micro_batch_size": 6, "rematerialize": True},
]


def model_of(loss, **options):
    model = SimCLR(*network(), loss=loss, **options)
    model.compile(tf.keras.optimizers.SGD(RATE))
    return model


def plain_step(strength):
    """(value, gradients) of Pull, from its formula and one tape over the whole batch."""
    encoder, head = network()
    variables = encoder.trainable_variables + head.trainable_variables
    with tf.GradientTape() as tape:
        a, b = (head(encoder(view, training=True), training=True) for view in VIEWS)
        loss = strength * tf.reduce_sum((a - b) ** 2) / BATCH + tf.reduce_sum(a**2) / BATCH
    return float(loss), tape.gradient(loss, variables)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_minimises_the_loss_that_was_given(options, jit_compile):
    model = model_of(Pull(0.3), **options)
    assert_same(step(model, jit_compile=jit_compile), plain_step(0.3))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_under_two_replicas_it_is_the_loss_of_the_global_batch(options):
    strategy = mirrored(2)
    with strategy.scope():
        model = model_of(Pull(0.3), **options)
    rows = [np.split(v, 2) for v in VIEWS]
    batch = strategy.experimental_distribute_values_from_function(
        lambda c: tuple(tf.constant(v[c.replica_id_in_sync_group]) for v in rows)
    )
    before = [v.numpy() for v in model.learned_variables]
    tf.function(lambda data: strategy.run(model.train_step, (data,)))(batch)
    moved = [(b - v.numpy()) / RATE for b, v in zip(before, model.learned_variables)]
    assert_same((float(model.metrics[0].result()), moved), plain_step(0.3))


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 6}], ids=str)
def test_evaluation_reports_it_without_accuracies(options):
    model = model_of(Pull(0.3), **options)
    logs = model.test_on_batch(VIEWS[0], VIEWS[1], return_dict=True)
    a, b = (model.projection_head(model.encoder(view)).numpy() for view in VIEWS)
    expected = np.mean(0.3 * np.sum((a - b) ** 2, axis=1) + np.sum(a**2, axis=1))
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    assert list(logs) == ["loss", "embedding_std", "alignment", "uniformity", "effective_rank"]


def test_a_model_is_saved_with_its_loss(tmp_path):
    model = model_of(Pull(0.3))
    model.compile(tf.keras.optimizers.SGD(0.01))
    model.fit(*VIEWS, batch_size=BATCH, verbose=0)
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.contrastive_loss, Pull)
    assert again.contrastive_loss.get_config() == {"strength": 0.3, "name": "Pull"}
    of_first, of_second = (m.train_on_batch(*VIEWS, return_dict=True) for m in (model, again))
    assert of_first == pytest.approx(of_second, rel=1e-5)


def test_a_model_saved_when_it_had_only_a_temperature_trains_on():
    again = tf.keras.models.load_model(GOLDEN / "simclr.keras")
    assert isinstance(again.contrastive_loss, losses.NTXent)
    assert again.contrastive_loss.temperature == 0.5
    views = np.random.default_rng(0).random([2, 8, 6, 6, 3]).astype(np.float32)
    logs = again.train_on_batch(*views, return_dict=True)
    np.testing.assert_allclose(logs["loss"], 3.548935, rtol=1e-4)  # From the version that saved it.


def test_the_configs_of_losses_are_safe():
    for loss in (losses.NTXent(0.3), Pull(0.3)):
        config = tf.keras.saving.serialize_keras_object(loss)
        check_config(config)
        again = tf.keras.saving.deserialize_keras_object(config)
        assert type(again) is type(loss) and again.get_config() == loss.get_config()


def test_temperature_is_short_for_nt_xent():
    encoder, head = network()

    def loss_of(*arguments, **options):
        return SimCLR(encoder, head, *arguments, **options).get_config()["loss"]

    assert loss_of(temperature=0.5) == loss_of(0.5) == loss_of(loss=losses.NTXent(0.5))
    assert loss_of() == loss_of(loss=losses.NTXent(0.1))


def test_other_arguments_are_refused_by_name():
    encoder, head = network()

    for options, message in (
        ({"loss": Pull(), "temperature": 0.5}, "temperature=0.5 is short .* loss is given too"),
        ({"loss": "mse"}, "loss must be a ContrastiveLoss.*; received 'mse'"),
        ({"loss": tf.keras.losses.MeanSquaredError()}, "loss must be a ContrastiveLoss"),
    ):
        with pytest.raises(UserError, match=message):
            SimCLR(encoder, head, **options)
    with pytest.raises(UserError, match=r"SimCLR\(encoder, head, loss=.*received loss='mse'"):
        model_of(Pull()).compile("sgd", loss="mse")


def test_a_loss_says_what_it_lacks():
    loss = Pull(2.0)
    assert loss.levels(8, 4) == {} and not loss.ranks_positives and not loss.needs_labels
    a, b = (tf.constant(v) for v in ([[1.0, 2.0]], [[0.0, 2.0]]))
    assert float(loss(a, b)) == 2.0 * 1.0 + 5.0
    with pytest.raises(NotImplementedError, match="ContrastiveLoss does not implement contrast"):
        losses.ContrastiveLoss().contrast(a, b)


def test_nt_xent_has_both_levels():
    assert losses.NTXent(0.2).levels(8, 16) == {
        "chance_level": losses.chance_level(8),
        "untrained_level": losses.untrained_level(8, 16, 0.2),
    }


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda loss: loss, r"Careless.contrast must return tf_simclr.Contrast\(loss\); received"),
        (lambda loss: Contrast(tf.fill([8], loss)), r"scalar loss.*received shape \(8,\)"),
    ],
    ids=["no Contrast", "a vector"],
)
def test_what_a_loss_returns_is_checked(returned, message):
    class Careless(ContrastiveLoss):
        def contrast(self, z_a, z_b):
            return returned(tf.reduce_mean((z_a - z_b) ** 2))

    z = tf.ones([8, 4])
    with pytest.raises(UserError, match=message):
        contrast_of(Careless(), z, z)
