"""The model SimCLR: what a step does, on any number of replicas, and how it is saved."""

from __future__ import annotations

import faulthandler

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tests.reference.nt_xent import nt_xent as oracle
from tests.replicas import mirrored
from tf_simclr import losses
from tf_simclr.data.pipeline import labelled_dataset, two_view_dataset
from tf_simclr.data.sources import array_source
from tf_simclr.distribute import on_replicas
from tf_simclr.errors import UserError
from tf_simclr.models.encoders import build_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR
from tf_simclr.optim.lars import LARS
from tf_simclr.optim.schedules import WarmupCosine

BATCH, SIZE, STEPS = 16, 16, 5


@pytest.fixture(scope="module")
def source():
    images = np.random.default_rng(0).integers(0, 256, [40, SIZE, SIZE, 3], np.uint8)
    return array_source(images, labels=np.arange(40) % 4)


def small_model(encoder=None, **options):
    tf.keras.utils.set_random_seed(1)
    encoder = encoder or build_encoder("resnet10", image_size=SIZE, width_multiplier=0.125)
    return SimCLR(encoder, ProjectionHead(num_layers=2, out_dim=16), temperature=0.5, **options)


def tiny_encoder():
    """Convolutions with batch normalisation, quick to trace on many replicas."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(1)
    x = images = layers.Input([SIZE, SIZE, 3])
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))


def compiled(model, steps=STEPS, **options):
    optimizer = LARS(WarmupCosine(0.1, 2, steps), weight_decay=1e-4)
    model.compile(optimizer=optimizer, **options)
    return model


def train_on(strategy, source, *, jit_compile=False, tiny=False):
    """Trains five real steps; returns the losses and final weights."""
    with strategy.scope():
        model = compiled(small_model(tiny_encoder() if tiny else None))
    dataset = strategy.distribute_datasets_from_function(
        lambda context: two_view_dataset(
            source, batch_size=BATCH, image_size=SIZE, input_context=context
        )
    )
    run_step = on_replicas(strategy, model.train_step, jit_compile)

    @tf.function
    def run(batch):
        run_step(args=(batch,))

    trajectory = []
    for batch, _ in zip(dataset, range(STEPS)):
        model.reset_metrics()
        run(batch)
        trajectory.append({m.name: float(m.result()) for m in model.metrics})
    return trajectory, [
        v.numpy() for v in model.encoder.variables + model.projection_head.variables
    ]


def assert_close(one, many, tolerance):
    # Not embedding_std and uniformity, which are means of each replica's own estimate.
    for name in ("loss", "contrastive_top1", "contrastive_top5", "alignment"):
        a, b = [[logs[name] for logs in trajectory] for trajectory in (one[0], many[0])]
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-6, err_msg=name)
    for a, b in zip(one[1], many[1]):  # Weights are of the order of 0.1 to 1.
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=0.1 * tolerance)


@pytest.fixture(scope="module")
def one_replica(source):
    return train_on(tf.distribute.OneDeviceStrategy("/cpu:0"), source)


@pytest.fixture(scope="module")
def one_tiny_replica(source):
    return train_on(tf.distribute.OneDeviceStrategy("/cpu:0"), source, tiny=True)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_change_nothing(replicas, source, one_tiny_replica):
    assert_close(one_tiny_replica, train_on(mirrored(replicas), source, tiny=True), 1e-4)


@pytest.mark.slow
def test_replicas_of_a_resnet_change_nothing(source, one_replica):
    assert_close(one_replica, train_on(mirrored(2), source), 1e-4)


def test_the_whole_step_compiles_under_xla(source, one_replica):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    assert_close(one_replica, train_on(strategy, source, jit_compile=True), 1e-3)


@pytest.fixture
def ends_the_process_if_it_hangs():
    """As a deadlock in TensorFlow's threads cannot be interrupted; shows where Python was."""
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("tiny", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("ends_the_process_if_it_hangs")
def test_two_replicas_compile_in_parts_under_xla(tiny, source, request):
    one = request.getfixturevalue("one_tiny_replica" if tiny else "one_replica")
    context.context().enable_graph_collection()
    try:
        two = train_on(mirrored(2), source, jit_compile=True, tiny=tiny)
        assert_close(one, two, 1e-3)
    finally:
        graphs = context.context().export_run_metadata().function_graphs
        context.context().disable_graph_collection()
    ran = {node.op for graph in graphs for part in graph.partition_graphs for node in part.node}
    assert {"_XlaRun", "CollectiveReduceV2"} <= ran
    assert not ran & {"Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput", "MatMul", "Exp"}


def test_the_step_has_static_shapes_and_no_host_op(source):
    model = compiled(small_model())
    dataset = two_view_dataset(source, batch_size=BATCH, image_size=SIZE)
    for spec in dataset.element_spec.values():
        assert spec.shape.is_fully_defined()
    graph = tf.function(model.train_step).get_concrete_function(dataset.element_spec).graph
    types = {op.type for op in graph.get_operations()}
    assert not types & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "IteratorGetNext", "Where"}


def test_the_step_minimises_the_papers_loss(source):
    model = small_model()
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0))
    views = np.random.default_rng(1).random([2, 8, SIZE, SIZE, 3]).astype(np.float32)
    logs = model.train_on_batch(views[0], views[1], return_dict=True)
    # One forward pass of both views: batch statistics are over all 2N views.
    z = model.projection_head(model.encoder(np.concatenate(views), training=True), training=True)
    expected = oracle(z.numpy()[:8], z.numpy()[8:], 0.5)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_learns_something_in_a_few_steps():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, [64, 1, 1, 3])
    images = np.broadcast_to(colours, [64, SIZE, SIZE, 3]).astype(np.uint8)
    dataset = two_view_dataset(
        array_source(images),
        batch_size=32,
        image_size=SIZE,
        color_jitter_strength=0.1,
        grayscale_probability=0.0,
    )
    model = small_model()
    model.compile(optimizer=tf.keras.optimizers.Adam(3e-3))
    history = model.fit(dataset, steps_per_epoch=15, epochs=3, verbose=0).history
    assert history["loss"][-1] < 0.8 * losses.chance_level(32)
    assert history["contrastive_top5"][-1] > 2 * 5 / 63


def test_predict_gives_the_representation(source):
    model = compiled(small_model())
    images = source.images[:6] / np.float32(255)
    h = model.predict(images, verbose=0)
    assert h.shape == (6, 64)
    np.testing.assert_allclose(h, model.encoder(images, training=False), atol=1e-5)


def test_evaluate_moves_no_weight(source):
    model = compiled(small_model())
    before = [v.numpy() for v in model.variables]
    dataset = two_view_dataset(source, batch_size=8, image_size=SIZE)
    logs = model.evaluate(dataset, steps=2, return_dict=True, verbose=0)
    assert 0 < logs["loss"] < 2 * losses.chance_level(8) + 1
    trained = [v.name for v in model.encoder.variables + model.projection_head.variables]
    for name, old, new in zip(trained, before, [v.numpy() for v in model.variables]):
        np.testing.assert_array_equal(old, new, err_msg=name)


def test_the_probe_learns_and_teaches_the_encoder_nothing(source):
    views = two_view_dataset(source, batch_size=8, image_size=SIZE)
    labelled = labelled_dataset(source, batch_size=8, image_size=SIZE, random_crop=False)
    with_probe, without = compiled(small_model(probe_classes=4)), compiled(small_model())
    probe_before = with_probe.probe.kernel.numpy()
    with_probe.fit(tf.data.Dataset.zip((views, labelled)), steps_per_epoch=3, verbose=0)
    without.fit(views, steps_per_epoch=3, verbose=0)
    assert not np.array_equal(probe_before, with_probe.probe.kernel.numpy())
    for a, b in zip(with_probe.learned_variables, without.learned_variables):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert {"probe_loss", "probe_top1"} <= set(with_probe.history.history)


def test_keras_file_round_trip(source, tmp_path):
    model = compiled(small_model(probe_classes=4))
    views = two_view_dataset(source, batch_size=8, image_size=SIZE)
    labelled = labelled_dataset(source, batch_size=8, image_size=SIZE, random_crop=False)
    pairs = tf.data.Dataset.zip((views, labelled))
    model.fit(pairs, steps_per_epoch=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    for part in ("encoder", "projection_head"):
        assert getattr(again, part).get_config() == getattr(model, part).get_config()
    assert (again.contrastive_loss.temperature, again.probe_classes) == (0.5, 4)
    images = source.images[:4] / np.float32(255)
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    for one in (model, again):
        one.fit(pairs, steps_per_epoch=2, verbose=0)
    assert int(again.optimizer.iterations) == 4
    for a, b in zip(model.learned_variables, again.learned_variables):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_in_float32_where_it_matters(policy, source):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        model = compiled(small_model())
        dataset = two_view_dataset(source, batch_size=8, image_size=SIZE)
        history = model.fit(dataset, steps_per_epoch=2, verbose=0).history
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history["loss"]).all()
    assert all(v.dtype == tf.float32 for v in model.learned_variables)
    assert model.encoder.output.dtype == tf.float32


def test_bad_arguments_are_named(source):
    encoder = build_encoder("resnet10", image_size=SIZE, width_multiplier=0.125)
    with pytest.raises(UserError, match="temperature must be positive; received -1"):
        SimCLR(encoder, temperature=-1)
    inputs = tf.keras.Input([8, 8, 3])
    with pytest.raises(UserError, match=r"output shape is \(None, 8, 8, 3\)"):
        SimCLR(tf.keras.Model(inputs, tf.keras.layers.ReLU()(inputs)))
    with pytest.raises(UserError, match="received loss='mse'"):
        small_model().compile(optimizer="sgd", loss="mse")
    model = compiled(small_model())
    # AutoGraph changes the type of errors in train_step, but keeps their message.
    with pytest.raises(
        Exception, match=r"two views \(view_a, view_b\).*received \(4, 16, 16, 3\) float32"
    ):
        model.train_on_batch(source.images[:4] / np.float32(255))
