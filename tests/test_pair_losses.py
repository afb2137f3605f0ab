"""NT-Logistic, margin triplet and supervised contrastive: oracles, tiles, replicas, limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import pair_losses as oracle
from tests.replicas import mirrored
from tf_simclr import losses
from tf_simclr.errors import UserError
from tf_simclr.losses import contrast_of, negatives, streaming
from tf_simclr.training.memory import peak_bytes

# Name: (class, a setting to test with, oracle of (z_a, z_b, labels, setting)).
CASES = {
    "nt_logistic": (losses.NTLogistic, 0.2, lambda a, b, y, t: oracle.nt_logistic(a, b, t)),
    "triplet": (losses.MarginTriplet, 0.4, lambda a, b, y, m: oracle.triplet(a, b, m)),
    "supervised": (losses.SupervisedContrastive, 0.2, oracle.supervised),
}


def pair(n, d, seed=0, noise=0.7):
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(n, d))
    z_b = z_a + noise * rng.normal(size=(n, d))
    return z_a.astype(np.float32), z_b.astype(np.float32), classes(n)


def classes(n):
    """Labels of any values: some classes have one image, some several; sorted they are not."""
    return np.array([7, -3, 2**40, 7, 0, 7, -3])[np.arange(n) % 7] + np.arange(n) // 14


def everything(loss, z_a, z_b, labels):
    """Loss, ranks (zeros for a loss without) and both gradients, stacked."""
    with tf.GradientTape() as tape:
        tape.watch([z_a, z_b])
        out = contrast_of(loss, z_a, z_b, labels)
    gradients = tape.gradient(out.loss, [z_a, z_b])
    rank = tf.zeros([1], tf.int32) if out.positive_rank is None else out.positive_rank
    return out.loss, rank, tf.cast(tf.concat(gradients, 0), tf.float32)


def tensors(*arrays):
    return [tf.constant(array) for array in arrays]


def assert_same(results, expected, tolerance=1e-5):
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(results[1], expected[1])
    error = np.linalg.norm(results[2] - expected[2])
    assert error <= tolerance * np.linalg.norm(expected[2])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("factor", [0.25, 1.0, 5.0])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 3), (9, 16), (33, 4)])
def test_the_value_is_that_of_the_papers(n, d, factor, name):
    loss_class, setting, value = CASES[name]
    z_a, z_b, labels = pair(n, d, seed=n + d)
    expected = value(z_a, z_b, labels, setting * factor)
    out = contrast_of(loss_class(setting * factor), *tensors(z_a, z_b, labels))
    assert out.loss.dtype == tf.float32 and out.loss.shape == ()
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nt_logistic", "triplet"])
def test_ranks_are_those_of_nt_xent(name):
    z_a, z_b, _ = pair(20, 3)
    loss_class, setting, _ = CASES[name]
    assert loss_class.ranks_positives
    expected = losses.nt_xent(z_a, z_b).positive_rank
    np.testing.assert_array_equal(loss_class(setting).contrast(z_a, z_b).positive_rank, expected)
    assert losses.nt_logistic(z_a, z_b, ranks=False).positive_rank is None
    assert losses.triplet(z_a, z_b, ranks=False).positive_rank is None


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("n", "d"), [(2, 2), (5, 3), (9, 4)])
def test_the_gradient_is_the_slope(n, d, name):
    loss_class, setting, value = CASES[name]
    z_a, z_b, labels = pair(n, d, seed=3)
    slopes = oracle.slopes(lambda a, b: value(a, b, labels, setting), z_a, z_b)
    got = everything(loss_class(setting), *tensors(z_a, z_b, labels))[2]
    np.testing.assert_allclose(got, np.concatenate(slopes), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [2, 7, 600])
def test_compiled_is_the_same(n, name):
    loss_class, setting, _ = CASES[name]
    loss, batch = loss_class(setting), tensors(*pair(n, 16, noise=1.5))
    eager = everything(loss, *batch)
    for jit_compile in (False, True):
        compiled = tf.function(lambda *batch: everything(loss, *batch), jit_compile=jit_compile)
        assert_same(compiled(*batch), eager)


@pytest.mark.parametrize("name", CASES)
def test_batch_size_unknown_until_run(name):
    loss_class, setting, value = CASES[name]
    specs = [tf.TensorSpec([None, 4])] * 2 + [tf.TensorSpec([None], tf.int64)]
    function = tf.function(lambda *b: everything(loss_class(setting), *b), input_signature=specs)
    for n in (2, 5):
        batch = pair(n, 4)
        np.testing.assert_allclose(function(*batch)[0], value(*batch, setting), rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (33, 128), (513, 128), (1100, 8)])
def test_tiles_are_the_plain_form(monkeypatch, n, d, jit_compile, name):
    loss_class, setting, _ = CASES[name]
    loss, batch = loss_class(setting), tensors(*pair(n, d, seed=n, noise=1.5))
    results = []
    for least in (2**60, 0):
        monkeypatch.setattr(negatives, "_STREAM_FROM", least)
        run = tf.function(lambda *batch: everything(loss, *batch), jit_compile=jit_compile)
        results.append(run(*batch))
    assert_same(results[1], results[0])


@pytest.mark.parametrize("name", CASES)
def test_memory_is_linear_in_the_batch(monkeypatch, name):
    monkeypatch.setattr(streaming, "_MOST_ENTRIES", 2**20)
    loss_class, setting, _ = CASES[name]

    def peak(n):
        specs = [tf.TensorSpec([n, 64])] * 2 + [tf.TensorSpec([n], tf.int64)]
        function = tf.function(lambda *batch: everything(loss_class(setting), *batch))
        return peak_bytes(function.get_concrete_function(*specs))

    few, many = peak(8192), peak(16384)
    assert few < 16384**2 * 4 / 16  # Much less than the matrix.
    assert many < 2.2 * few


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_single(dtype, name):
    loss_class, setting, _ = CASES[name]
    z_a, z_b, labels = tensors(*pair(16, 8))
    z_a, z_b = tf.cast(z_a, dtype), tf.cast(z_b, dtype)
    half = everything(loss_class(setting), z_a, z_b, labels)
    same = everything(
        loss_class(setting), tf.cast(z_a, tf.float32), tf.cast(z_b, tf.float32), labels
    )
    assert half[0].dtype == tf.float32
    assert_same(half, same, tolerance=1e-2)  # Gradients are rounded to the dtype of z.


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("what", ["identical", "zero"])
def test_collapsed_embeddings(what, name):
    loss_class, setting, _ = CASES[name]
    loss = loss_class(setting)
    row = np.zeros(5) if what == "zero" else np.linspace(-1, 2, 5)
    z = tf.constant(np.tile(row, [8, 1]), tf.float32)
    value, rank, gradients = everything(loss, z, z, tf.constant(classes(8)))
    assert np.isfinite(gradients).all()
    if what == "identical":
        level = loss.levels(8, 5)["chance_level"]
        np.testing.assert_allclose(value, level, rtol=1e-5)
    if loss.ranks_positives:
        np.testing.assert_array_equal(rank, np.full(16, 14))  # All negatives tie: no hits.


@pytest.mark.parametrize("name", CASES)
def test_the_untrained_level_is_the_mean_loss_of_random_directions(name):
    loss_class, setting, _ = CASES[name]
    loss, rng = loss_class(setting), np.random.default_rng(0)
    labels = tf.constant(classes(16))
    drawn = [
        contrast_of(loss, *tensors(*rng.normal(size=[2, 16, 8]).astype(np.float32)), labels).loss
        for _ in range(200)
    ]
    error = np.std(drawn) / np.sqrt(len(drawn))
    level = loss.levels(16, 8)["untrained_level"]
    assert level == pytest.approx(np.mean(drawn), abs=5 * error + 0.01)


@pytest.mark.parametrize("name", ["nt_logistic", "triplet"])
def test_a_single_image_has_no_negatives(name):
    loss = CASES[name][0]()
    z_a, z_b, _ = pair(1, 3)
    for act in (lambda: loss.contrast(z_a, z_b), lambda: loss.levels(1, 3)):
        with pytest.raises(UserError, match=f"the {name} loss needs at least 2 images"):
            act()


# --- triplet ---


def test_the_triplet_loss_is_that_of_addons():
    addons = pytest.importorskip("tensorflow_addons")
    z_a, z_b, _ = pair(24, 4, noise=1.5)
    images = np.tile(np.arange(24), 2)
    z = np.concatenate([z_a, z_b])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    for margin in (0.0, 0.1, 0.4, 1.6):
        ours = losses.triplet(z_a, z_b, margin).loss
        angular = addons.losses.TripletSemiHardLoss(margin, distance_metric="angular")
        np.testing.assert_allclose(ours, angular(images, z), rtol=1e-5)
        squared = addons.losses.TripletSemiHardLoss(2 * margin, distance_metric="squared-L2")
        np.testing.assert_allclose(2 * ours, squared(images, unit), rtol=1e-5)


def test_without_a_semi_hard_negative_the_easiest_is_taken():
    # Views at 0 and 90 degrees; the other image at 40 and 50: all negatives beat the positive.
    angles = np.deg2rad([[0.0, 40.0], [90.0, 50.0]])
    z_a, z_b = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    far = math.cos(math.radians(50)) - math.cos(math.radians(90))
    near = math.cos(math.radians(40)) - math.cos(math.radians(10))  # Semi-hard for 40 is 0 degrees.
    expected = (far + max(near + 0.4, 0)) / 2 + 0.4 / 2
    np.testing.assert_allclose(losses.triplet(z_a, z_b, 0.4).loss, expected, rtol=1e-5)


def test_a_negative_equal_to_the_positive_is_not_semi_hard():
    # The second image repeats the first one's views; the third is at right angles.
    z_a = np.float32([[1, 0, 0], [1, 0, 0], [0, 0, 1]])
    z_b = np.float32([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    s = 1 / math.sqrt(2)
    # Of a view of the first images: positive s, negatives 1, s (a tie) and 0. Semi-hard: 0.
    expected = (4 * max(0 - s + 0.9, 0) + 2 * max(0 - 1 + 0.9, 0)) / 6
    np.testing.assert_allclose(losses.triplet(z_a, z_b, 0.9).loss, expected, rtol=1e-5)
    z_a, z_b, _ = pair(6, 4)
    z_a[3:], z_b[3:] = z_a[:3], z_b[:3]
    expected = oracle.triplet(z_a, z_b, 0.4)
    np.testing.assert_allclose(losses.triplet(z_a, z_b, 0.4).loss, expected, rtol=1e-5)


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_a_margin_is_at_least_zero(margin):
    with pytest.raises(UserError, match=f"margin must be at least 0; received {margin}"):
        losses.MarginTriplet(margin)


# --- supervised ---


def test_without_repeated_labels_it_is_nt_xent():
    z_a, z_b, _ = pair(12, 5)
    labels = np.random.default_rng(0).permutation(12)
    supervised = everything(losses.SupervisedContrastive(0.3), *tensors(z_a, z_b, labels))
    nt_xent = everything(losses.NTXent(0.3), *tensors(z_a, z_b, labels))
    np.testing.assert_allclose(supervised[0], nt_xent[0], rtol=1e-5)
    np.testing.assert_allclose(supervised[2], nt_xent[2], rtol=1e-4, atol=1e-6)


def test_a_single_class():
    z_a, z_b, _ = pair(6, 4)
    labels = np.full(6, 3)
    expected = oracle.supervised(z_a, z_b, labels, 0.2)
    out = losses.supervised(*tensors(z_a, z_b, labels), temperature=0.2)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
    assert out.positive_rank is None


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_labels_may_be_any_integers(dtype):
    z_a, z_b, _ = pair(6, 4)
    labels = np.array([0, 1, 2, 200, 1, 0]).astype(dtype)
    expected = oracle.supervised(z_a, z_b, labels, 0.1)
    np.testing.assert_allclose(losses.supervised(z_a, z_b, labels).loss, expected, rtol=1e-5)


def test_labels_are_required():
    z_a, z_b, labels = pair(6, 4)
    loss = losses.SupervisedContrastive()
    for act in (lambda: contrast_of(loss, z_a, z_b), lambda: loss(z_a, z_b)):
        with pytest.raises(UserError, match="'supervised' needs the labels of the images"):
            act()
    for wrong in (labels[:3], labels.astype(np.float32), np.tile(labels, [6, 1])):
        with pytest.raises(UserError, match=r"labels must be integers \(6,\), one for each pair"):
            loss.contrast(z_a, z_b, wrong)


# --- replicas ---


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("n", [4, 12])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_add_up_to_the_global_batch(monkeypatch, replicas, n, tiles, name):
    loss_class, setting, value = CASES[name]
    monkeypatch.setattr(negatives, "_STREAM_FROM", 0 if tiles else 2**60)
    z_a, z_b, labels = pair(n, 5, seed=n)
    strategy = mirrored(replicas)

    def split(array):
        parts = np.split(array, replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    @tf.function
    def run(*batch):
        return strategy.run(lambda *batch: everything(loss_class(setting), *batch), batch)

    loss, rank, gradients = (
        [part.numpy() for part in strategy.experimental_local_results(result)]
        for result in run(*map(split, (z_a, z_b, labels)))
    )
    np.testing.assert_allclose(np.mean(loss), value(z_a, z_b, labels, setting), rtol=1e-5)
    slopes = oracle.slopes(lambda a, b: value(a, b, labels, setting), z_a, z_b)
    for part, slope in enumerate(slopes):
        got = np.concatenate([np.split(gradient, 2)[part] for gradient in gradients]) / replicas
        np.testing.assert_allclose(got, slope, rtol=1e-3, atol=1e-5)
    if loss_class.ranks_positives:
        halves = [np.split(part, 2) for part in rank]
        by_view = np.concatenate([h[0] for h in halves] + [h[1] for h in halves])
        np.testing.assert_array_equal(by_view, losses.nt_xent(z_a, z_b).positive_rank)


@pytest.mark.parametrize(
    ("name", "numbers"), [("nt_logistic", 2), ("triplet", 2), ("supervised", 3)]
)
def test_embeddings_are_sent_once_and_gradients_never(monkeypatch, name, numbers):
    sent, gather = [], negatives.gather_others
    monkeypatch.setattr(
        negatives, "gather_others", lambda x: (sent.append(x.shape.as_list()), gather(x))[1]
    )
    loss_class, setting, _ = CASES[name]
    specs = [tf.TensorSpec([4, 32])] * 2 + [tf.TensorSpec([4], tf.int64)]
    strategy = mirrored(2)
    run = tf.function(lambda *b: strategy.run(everything, (loss_class(setting), *b)))
    graph = run.get_concrete_function(*specs).graph
    # On each of the two replicas: 8 rows of 32 numbers, then a few numbers for each.
    width = 36 if name == "supervised" else 32  # A label is four numbers.
    assert sent == [[8, width], [8, width], [8, numbers], [8, numbers]]
    collectives = [op.type for op in graph.get_operations() if op.type.startswith("Collective")]
    assert collectives == ["CollectiveGatherV2"] * 2 * len(sent)
