"""Micro-batches and rematerialisation: the same gradients as a plain step, but for BN."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.models.recompute_cases import (
    BATCH,
    RATE,
    SIZE,
    TEMPERATURE,
    VIEWS,
    assert_same,
    gradient_of,
    model_of,
    network,
    step,
)
from tests.replicas import mirrored
from tf_simclr import losses
from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import batch_norm_layers, synchronize_batch_norm
from tf_simclr.models.encoders import build_encoder
from tf_simclr.models.recompute import make_replayable
from tf_simclr.models.segments import segments_of
from tf_simclr.models.simclr import SimCLR

layers = tf.keras.layers


@pytest.mark.parametrize(
    "size", [1, 6, 12, 24, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4, 8))]
)
def test_without_batch_norm_every_micro_batch_gives_the_same_gradient(size):
    plain = step(model_of(network()))
    assert_same(step(model_of(network(), micro_batch_size=size)), plain)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_with_frozen_batch_norm_too(rematerialize):
    def frozen():
        encoder, head = network(norm=True)
        for layer in batch_norm_layers(encoder):
            layer.moving_mean.assign_add(tf.linspace(-1.0, 1.0, 8))
            layer.trainable = False
        return encoder, head

    plain = step(model_of(frozen()))
    assert_same(step(model_of(frozen(), micro_batch_size=6, rematerialize=rematerialize)), plain)


@pytest.mark.parametrize("size", [4, 12])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_with_batch_norm_it_is_ghost_batch_norm(size, jit_compile):
    # The oracle: one tape over the whole batch, with each part normalised separately.
    encoder, head = network(norm=True)
    synchronize_batch_norm(encoder, False)
    variables = encoder.trainable_variables + head.trainable_variables
    with tf.GradientTape() as tape:
        z = [
            tf.split(head(encoder(tf.concat([a, b], 0), training=True)), 2)
            for a, b in zip(*(np.split(v, BATCH // size) for v in VIEWS))
        ]
        loss = losses.nt_xent(*(tf.concat(views, 0) for views in zip(*z)), TEMPERATURE).loss
    expected = float(loss), tape.gradient(loss, variables)

    model = model_of(network(norm=True), micro_batch_size=size)
    assert_same(step(model, jit_compile=jit_compile), expected)
    # Updated once per part, in order, not twice.
    for got, want in zip(model.encoder.non_trainable_variables, encoder.non_trainable_variables):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"micro_batch_size": 6}, {"rematerialize": True}])
def test_dropout_drops_the_same_when_computed_again(options):
    encoder, head = network(dropout=0.5)
    make_replayable(encoder)
    variables = encoder.trainable_variables + head.trainable_variables
    parts = BATCH // options.get("micro_batch_size", BATCH)
    with tf.GradientTape() as tape:
        z = [
            tf.split(head(encoder(tf.concat([a, b], 0), training=True)), 2)
            for a, b in zip(*(np.split(v, parts) for v in VIEWS))
        ]
        loss = losses.nt_xent(*(tf.concat(views, 0) for views in zip(*z)), TEMPERATURE).loss
    model = model_of(network(dropout=0.5), **options)
    first = step(model)
    assert_same(first, (float(loss), tape.gradient(loss, variables)))
    for variable, gradient in zip(model.learned_variables, first[1]):
        variable.assign_add(RATE * gradient)
    assert step(model)[0] != pytest.approx(first[0], rel=1e-5)  # The next step draws again.


@pytest.mark.parametrize("jit_compile", [False, True])
def test_rematerialising_changes_nothing(jit_compile):
    plain, model = model_of(network(norm=True)), model_of(network(norm=True), rematerialize=True)
    assert_same(step(model, jit_compile=jit_compile), step(plain))
    pairs = zip(model.encoder.non_trainable_variables, plain.encoder.non_trainable_variables)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    micro = step(model_of(network(norm=True), micro_batch_size=6))
    both = model_of(network(norm=True), micro_batch_size=6, rematerialize=True)
    assert_same(step(both, jit_compile=jit_compile), micro)


@pytest.mark.parametrize("options", [{"micro_batch_size": 4}, {"rematerialize": True}])
def test_weight_regularisation_counts_once(options):
    plain = step(model_of(network(regularizer=tf.keras.regularizers.L2(0.1))))
    assert_same(
        step(model_of(network(regularizer=tf.keras.regularizers.L2(0.1)), **options)), plain
    )


@pytest.mark.parametrize(("replicas", "rematerialize"), [(2, True), (4, False)])
def test_replicas_change_nothing(replicas, rematerialize):
    """Parts have six consecutive images, on any replica."""

    def train(strategy):
        with strategy.scope():
            parts = network(norm=True)
            model = model_of(parts, micro_batch_size=6, rematerialize=rematerialize)
        rows = [np.split(v, strategy.num_replicas_in_sync) for v in VIEWS]
        batch = strategy.experimental_distribute_values_from_function(
            lambda c: tuple(tf.constant(v[c.replica_id_in_sync_group]) for v in rows)
        )
        before = [v.numpy() for v in model.learned_variables]
        tf.function(lambda data: strategy.run(model.train_step, (data,)))(batch)
        moved = [(b - v.numpy()) / RATE for b, v in zip(before, model.learned_variables)]
        return float(model.metrics[0].result()), moved

    one = train(tf.distribute.OneDeviceStrategy("/cpu:0"))
    assert_same(train(mirrored(replicas)), one, 1e-4)


def test_dropout_under_several_replicas():
    strategy = mirrored(2)
    with strategy.scope():
        model = model_of(network(dropout=0.5), micro_batch_size=6)
    rows = [np.split(v, 2) for v in VIEWS]
    batch = strategy.experimental_distribute_values_from_function(
        lambda c: tuple(tf.constant(v[c.replica_id_in_sync_group]) for v in rows)
    )

    def first_dropout(encoder):
        return next(part for part in encoder.layers if isinstance(part, layers.Dropout))

    layer, alone = first_dropout(model.encoder), first_dropout(network(dropout=0.5)[0])

    def position():
        state = layer._random_generator._generator.state
        return [int(s[0]) for s in strategy.experimental_local_results(state)]

    start = position()
    tf.function(lambda data: strategy.run(model.train_step, (data,)))(batch)
    moved = [after - before for after, before in zip(position(), start)]
    make_replayable(alone)
    before = int(alone._random_generator._generator.state[0])
    alone(tf.zeros([2 * 6, SIZE, SIZE, 8]), training=True)  # The views of a part.
    one_draw = int(alone._random_generator._generator.state[0]) - before
    # Each replica's two parts draw once: the second pass repeats the draws.
    assert moved == [2 * one_draw] * 2 and one_draw > 0


@pytest.mark.parametrize(
    ("policy", "options"),
    [("mixed_bfloat16", {"micro_batch_size": 6}), ("mixed_float16", {"rematerialize": True})],
)
def test_mixed_precision(policy, options):
    exact = gradient_of(network())
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        plain, recomputed = gradient_of(network()), gradient_of(network(), **options)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    # Processors round bfloat16 in different places, so two such gradients may differ. But the error
    # against float32 must not be larger with recomputing than without.
    error, expected = (np.linalg.norm(g - exact) for g in (recomputed, plain))
    assert error <= 1.5 * expected
    assert expected < 0.5 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("options", "jit_compile"),
    [({"micro_batch_size": 6}, False), ({"rematerialize": True}, True)],
)
def test_an_overflow_skips_the_step_and_keeps_the_statistics(options, jit_compile):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = SimCLR(*network(norm=True), temperature=TEMPERATURE, **options)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    model.compile(
        tf.keras.mixed_precision.LossScaleOptimizer(
            tf.keras.optimizers.SGD(0.1), initial_scale=2.0**60
        )
    )
    before = [v.numpy() for v in model.learned_variables]
    tf.function(model.train_step, jit_compile=jit_compile)(tuple(tf.constant(v) for v in VIEWS))
    for old, variable in zip(before, model.learned_variables):
        np.testing.assert_array_equal(old, variable)
    assert all(np.isfinite(v).all() for v in model.encoder.non_trainable_variables)


def test_a_layer_may_be_frozen_later():
    plain, recomputing = model_of(network()), model_of(network(), rematerialize=True)
    for model in (plain, recomputing):
        model.encoder.layers[1].trainable = False
    assert_same(step(recomputing), step(plain))


def test_blocks_that_share_a_layer_are_refused():
    images = layers.Input([SIZE, SIZE, 3])
    x, shared = layers.Conv2D(8, 1)(images), layers.Conv2D(8, 3, padding="same", name="shared")
    for _ in range(2):
        x = layers.ReLU()(layers.Add()([x, shared(x)]))
    encoder = tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))
    with pytest.raises(UserError, match="share a layer, that of 'shared/kernel:0'"):
        SimCLR(encoder, rematerialize=True)
    SimCLR(encoder, micro_batch_size=6)


def test_the_probe_and_evaluation_go_by_parts():
    rng = np.random.default_rng(0)
    labelled = rng.random([BATCH, SIZE, SIZE, 3]).astype(np.float32), np.arange(BATCH) % 3
    data = tf.data.Dataset.from_tensors((tuple(VIEWS), labelled)).repeat(3)
    histories, evaluations = [], []
    for options in ({}, {"micro_batch_size": 6}):
        model = SimCLR(*network(), temperature=TEMPERATURE, probe_classes=3, **options)
        model.probe.kernel.assign(tf.reshape(tf.linspace(-1.0, 1.0, 24), [8, 3]))
        model.compile(tf.keras.optimizers.SGD(0.1))
        histories.append(model.fit(data, epochs=2, verbose=0).history)
        evaluations.append(model.evaluate(data, verbose=0))
    for name in histories[0]:
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(evaluations[1], evaluations[0], rtol=1e-4)


def test_kept_in_a_keras_file(tmp_path):
    parts = network(norm=True, dropout=0.3)
    model = SimCLR(*parts, temperature=TEMPERATURE, micro_batch_size=6, rematerialize=True)
    model.compile(tf.keras.optimizers.SGD(0.01))
    model.fit(*VIEWS, batch_size=BATCH, verbose=0)
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    assert (again.micro_batch_size, again.rematerialize) == (6, True)
    losses = [m.fit(*VIEWS, batch_size=BATCH, verbose=0).history["loss"] for m in (model, again)]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(("name", "segments"), [("resnet18", 9), ("resnet50", 17)])
def test_segments_are_residual_blocks(name, segments):
    encoder = build_encoder(name, image_size=SIZE, width_multiplier=0.125)
    chain = segments_of(encoder)
    assert len(chain) == segments  # The stem is a segment: it ends where group 1 begins.
    x = tf.constant(VIEWS[0])
    y = x
    for segment in chain:
        y = segment(y, training=False)
    np.testing.assert_allclose(y, encoder(x, training=False), rtol=1e-5, atol=1e-6)
    weights = [w.ref() for segment in chain for w in segment.weights]
    assert len(set(weights)) == len(weights) and set(weights) == {w.ref() for w in encoder.weights}


@pytest.mark.parametrize("name", ["densenet121", "efficientnetv2-b0", "resnet50v2"])
def test_segments_of_keras_cvs_encoders(name):
    encoder = build_encoder(name)
    chain = segments_of(encoder)
    assert len(chain) > 10
    assert sum(len(s.weights) for s in chain) == len(encoder.weights)


def test_bad_requests_are_explained():
    with pytest.raises(UserError, match="micro_batch_size must be positive; received 0"):
        model_of(network(), micro_batch_size=0)
    with pytest.raises(Exception, match="micro_batch_size=7 must divide .* 24 images"):
        step(model_of(network(), micro_batch_size=7))
    spec = tf.TensorSpec([None, SIZE, SIZE, 3])
    with pytest.raises(Exception, match="unknown in advance. Batch with drop_remainder=True"):
        model = model_of(network(), micro_batch_size=6)
        tf.function(model.train_step).get_concrete_function((spec, spec))
    plain = tf.keras.Sequential([layers.Flatten(), layers.Dense(3)])
    plain.build([None, SIZE, SIZE, 3])
    with pytest.raises(UserError, match="no residual blocks in encoder"):
        SimCLR(plain, rematerialize=True)
