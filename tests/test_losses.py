"""NT-Xent and its relatives against Algorithm 1, closed forms, stored numbers and replicas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import iv

from tests.reference import metrics as metrics_oracle
from tests.reference import nt_xent as oracle
from tests.replicas import mirrored
from tf_simclr import losses
from tf_simclr.errors import UserError
from tf_simclr.losses import dense, negatives, streaming
from tf_simclr.losses.terms import LOG_SUM_EXP
from tf_simclr.training.memory import peak_bytes

# keras-cv's own test of its SimCLRLoss, which is twice the paper's mean:
# https://github.com/keras-team/keras-cv/blob/v0.9.0/keras_cv/losses/simclr_loss_test.py
KERAS_CV_A = np.array([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]], np.float32)
KERAS_CV_B = np.array([[6, 5, 4, 3], [5, 4, 3, 2], [4, 3, 2, 1]], np.float32)


# Name: (function, class, oracle, oracle of the gradients).
SOFTMAX = {
    "nt_xent": (losses.nt_xent, losses.NTXent, oracle.nt_xent_dense, oracle.nt_xent_gradients),
    "decoupled": (
        losses.decoupled,
        losses.DecoupledContrastiveLoss,
        oracle.decoupled_dense,
        oracle.decoupled_gradients,
    ),
}


def _pair(n: int, d: int, seed: int = 0, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Correlated float32 [n, d] projections, so that positives mean something."""
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(n, d))
    z_b = z_a + noise * rng.normal(size=(n, d))
    return z_a.astype(np.float32), z_b.astype(np.float32)


def _nt_xent(z_a, z_b, temperature=0.1):
    return losses.nt_xent(tf.constant(z_a), tf.constant(z_b), temperature)


def _alignment(z_a, z_b):
    return losses.alignment(tf.constant(z_a), tf.constant(z_b))


def _uniformity(z):
    return losses.uniformity(tf.constant(z))


def _gradients(z_a, z_b, temperature):
    a, b = tf.convert_to_tensor(z_a), tf.convert_to_tensor(z_b)
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        loss = losses.nt_xent(a, b, temperature).loss
    return tape.gradient(loss, [a, b])


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("d", [1, 4, 128])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
def test_value_is_algorithm_1(n, d, temperature):
    z_a, z_b = _pair(n, d, seed=n * 1000 + d)
    out = _nt_xent(z_a, z_b, temperature)
    assert out.loss.dtype == tf.float32 and out.loss.shape == ()
    assert out.positive_rank.dtype == tf.int32 and out.positive_rank.shape == (2 * n,)
    expected = oracle.nt_xent(z_a, z_b, temperature)
    # 1e-6; below T = 0.1 a float32 logit of up to 1/T is itself no better than 1e-6.
    np.testing.assert_allclose(out.loss, expected, rtol=1e-6, atol=1e-6 * max(1, 0.1 / temperature))


def test_default_temperature_is_a_tenth():
    z_a, z_b = _pair(5, 8)
    expected = oracle.nt_xent(z_a, z_b, 0.1)
    z_a, z_b = tf.constant(z_a), tf.constant(z_b)
    np.testing.assert_allclose(losses.nt_xent(z_a, z_b).loss, expected, rtol=1e-6)
    np.testing.assert_allclose(losses.NTXent()(z_a, z_b), expected, rtol=1e-6)


@pytest.mark.parametrize(("temperature", "stored"), [(0.5, 3.566689), (0.1, 5.726100)])
def test_half_of_keras_cvs_stored_value(temperature, stored):
    loss = losses.NTXent(temperature=temperature)(tf.constant(KERAS_CV_A), tf.constant(KERAS_CV_B))
    np.testing.assert_allclose(loss, stored / 2, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 8, 33])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_identical_embeddings_give_log_of_the_candidates(n, temperature):
    z = np.tile(np.linspace(-1, 2, 16, dtype=np.float32), [n, 1])
    loss = _nt_xent(z, z, temperature).loss
    np.testing.assert_allclose(loss, math.log(2 * n - 1), rtol=1e-5, atol=1e-6)
    assert losses.chance_level(n) == pytest.approx(math.log(2 * n - 1), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 2), (8, 16), (33, 7)])
def test_gradient_is_the_written_out_one(n, d, temperature):
    z_a, z_b = _pair(n, d, seed=n)
    expected = oracle.nt_xent_gradients(z_a, z_b, temperature)
    for got, want in zip(_gradients(z_a, z_b, temperature), expected):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6 / temperature)


def test_gradient_is_the_slope_of_algorithm_1():
    z_a, z_b = (z.astype(np.float64) for z in _pair(3, 4, seed=5))
    got_a, got_b = _gradients(z_a.astype(np.float32), z_b.astype(np.float32), 0.3)
    step = 1e-5
    for i, j in np.ndindex(3, 4):
        nudge = np.zeros_like(z_a)
        nudge[i, j] = step
        for got, up, down in (
            (got_a, (z_a + nudge, z_b), (z_a - nudge, z_b)),
            (got_b, (z_a, z_b + nudge), (z_a, z_b - nudge)),
        ):
            slope = (oracle.nt_xent(*up, 0.3) - oracle.nt_xent(*down, 0.3)) / (2 * step)
            assert float(got[i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("n", [1000, 1025])
def test_big_batches(n):
    z_a, z_b = _pair(n, 32, noise=1.5)
    out = _nt_xent(z_a, z_b, 0.1)
    np.testing.assert_allclose(out.loss, oracle.nt_xent_dense(z_a, z_b, 0.1), rtol=2e-6)
    expected = oracle.nt_xent_gradients(z_a, z_b, 0.1)
    for got, want in zip(_gradients(z_a, z_b, 0.1), expected):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-8)


def test_scale_of_the_projections_does_not_matter():
    z_a, z_b = _pair(8, 16)
    per_row = np.geomspace(1e-3, 1e3, 8, dtype=np.float32)[:, None]
    loss = _nt_xent(z_a, z_b, 0.1).loss
    np.testing.assert_allclose(_nt_xent(z_a * per_row, z_b * 37, 0.1).loss, loss, rtol=2e-6)


def test_swapping_the_views_swaps_ranks_and_keeps_the_loss():
    z_a, z_b = _pair(9, 3)
    forward, backward = _nt_xent(z_a, z_b, 0.2), _nt_xent(z_b, z_a, 0.2)
    np.testing.assert_allclose(forward.loss, backward.loss, rtol=1e-6)
    np.testing.assert_array_equal(np.roll(forward.positive_rank, 9), backward.positive_rank)


@pytest.mark.parametrize("scale", [1.0, 3000.0])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_projections(dtype, scale):
    z_a, z_b = (tf.cast(z * scale, dtype) for z in _pair(8, 64))
    loss = losses.nt_xent(z_a, z_b, 0.1).loss
    assert loss.dtype == tf.float32
    same_numbers = oracle.nt_xent(z_a.numpy(), z_b.numpy(), 0.1)
    np.testing.assert_allclose(loss, same_numbers, rtol=1e-5)
    np.testing.assert_allclose(losses.NTXent(0.1)(z_a, z_b), same_numbers, rtol=1e-5)
    for gradient in _gradients(z_a, z_b, 0.1):
        assert gradient.dtype == dtype
        assert np.isfinite(tf.cast(gradient, tf.float32)).all()


def test_zero_projections_stay_finite():
    z = np.zeros((4, 8), np.float32)
    np.testing.assert_allclose(_nt_xent(z, z, 0.1).loss, math.log(7), rtol=1e-6)
    for gradient in _gradients(z, z, 0.1):
        assert np.isfinite(gradient).all()


def test_sharp_temperature_stays_finite():
    z_a, z_b = _pair(8, 4)
    loss = _nt_xent(z_a, z_b, 1e-3).loss
    np.testing.assert_allclose(loss, oracle.nt_xent(z_a, z_b, 1e-3), rtol=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in _gradients(z_a, z_b, 1e-3))


@pytest.mark.parametrize("n", [1, 7, 600])
def test_compiled_is_the_same(n):
    z_a, z_b = (tf.constant(z) for z in _pair(n, 16))

    def value_and_gradients(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            out = losses.nt_xent(a, b, 0.1)
        return out.loss, out.positive_rank, *tape.gradient(out.loss, [a, b])

    eager = value_and_gradients(z_a, z_b)
    for jit_compile in (False, True):
        compiled = tf.function(value_and_gradients, jit_compile=jit_compile)(z_a, z_b)
        np.testing.assert_allclose(compiled[0], eager[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(compiled[1], eager[1])
        for got, want in zip(compiled[2:], eager[2:]):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-7)


def test_batch_size_unknown_until_run():
    spec = tf.TensorSpec([None, 4], tf.float32)
    function = tf.function(lambda a, b: losses.nt_xent(a, b, 0.1).loss, input_signature=[spec] * 2)
    for n in (2, 5):
        z_a, z_b = _pair(n, 4)
        np.testing.assert_allclose(function(z_a, z_b), oracle.nt_xent(z_a, z_b, 0.1), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0, 0.0, -0.25])
def test_temperature_must_be_positive(temperature):
    z_a, z_b = _pair(2, 2)
    with pytest.raises(UserError, match=str(temperature)):
        losses.NTXent(temperature=temperature)
    with pytest.raises(UserError, match=str(temperature)):
        _nt_xent(z_a, z_b, temperature)


def test_loss_class_round_trips():
    loss = losses.NTXent(temperature=0.37, name="contrast")
    restored = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert isinstance(restored, losses.NTXent)
    assert (restored.temperature, restored.name) == (0.37, "contrast")
    z_a, z_b = _pair(6, 5)
    np.testing.assert_allclose(restored(z_a, z_b), oracle.nt_xent(z_a, z_b, 0.37), rtol=1e-6)


# --- decoupled ---


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 4), (8, 128), (33, 4)])
def test_decoupled_is_equation_6(n, d, temperature):
    z_a, z_b = _pair(n, d, seed=n + d)
    expected = oracle.decoupled(z_a, z_b, temperature)
    assert oracle.decoupled_dense(z_a, z_b, temperature) == pytest.approx(expected, abs=1e-9)
    out = losses.decoupled(tf.constant(z_a), tf.constant(z_b), temperature)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5, atol=1e-6 / temperature)
    np.testing.assert_array_equal(out.positive_rank, _nt_xent(z_a, z_b, temperature).positive_rank)
    loss = losses.DecoupledContrastiveLoss(temperature)(z_a, z_b)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6 / temperature)


def test_decoupled_gradient_is_the_slope_of_equation_6():
    z_a, z_b = (z.astype(np.float64) for z in _pair(4, 3))
    expected = oracle.decoupled_gradients(z_a, z_b, 0.3)
    for part, gradient in enumerate(expected):
        for row, column in np.ndindex(gradient.shape):
            moved = [z_a.copy(), z_b.copy()]
            moved[part][row, column] += 1e-6
            up = oracle.decoupled(*moved, 0.3)
            moved[part][row, column] -= 2e-6
            slope = (up - oracle.decoupled(*moved, 0.3)) / 2e-6
            assert slope == pytest.approx(gradient[row, column], abs=1e-7)


def test_decoupled_closed_forms():
    same = np.tile(np.float32([[1.0, 2.0, 3.0]]), [5, 1])
    assert float(losses.decoupled(same, same, 0.1).loss) == pytest.approx(math.log(8), rel=1e-5)
    # Orthogonal images whose views agree: -1/T + log(2N - 2).
    eye = np.eye(4, dtype=np.float32)
    expected = -1 / 0.1 + math.log(6)
    assert float(losses.decoupled(eye, eye, 0.1).loss) == pytest.approx(expected, rel=1e-5)


def test_decoupled_levels():
    loss, rng = losses.DecoupledContrastiveLoss(0.2), np.random.default_rng(0)
    levels = loss.levels(16, 8)
    assert levels["chance_level"] == pytest.approx(math.log(30))
    drawn = [loss(*rng.normal(size=[2, 16, 8]).astype(np.float32)) for _ in range(200)]
    assert levels["untrained_level"] == pytest.approx(np.mean(drawn), abs=0.05)


def test_decoupled_needs_negatives():
    for act in (
        lambda: losses.decoupled(*_pair(1, 3)),
        lambda: losses.DecoupledContrastiveLoss().levels(1, 3),
    ):
        with pytest.raises(UserError, match="needs at least 2 images in a batch; received 1"):
            act()


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_losses_by_name_in_half_precision(name, dtype):
    loss = SOFTMAX[name][1](0.1)
    z_a, z_b = (tf.cast(z, dtype) for z in _pair(16, 8))
    single = loss(tf.cast(z_a, tf.float32), tf.cast(z_b, tf.float32))
    assert loss(z_a, z_b).dtype == tf.float32
    np.testing.assert_allclose(loss(z_a, z_b), single, rtol=1e-5)
    assert type(loss).from_config(loss.get_config()).get_config() == loss.get_config()


# --- tiles ---


def _everything(z_a, z_b, temperature, function=losses.nt_xent):
    """Loss, ranks and both gradients, stacked."""
    with tf.GradientTape() as tape:
        tape.watch([z_a, z_b])
        out = function(z_a, z_b, temperature)
    gradients = tape.gradient(out.loss, [z_a, z_b])
    return out.loss, out.positive_rank, tf.cast(tf.concat(gradients, 0), tf.float32)


def _in_both_forms(monkeypatch, run):
    """What `run` gives without tiles and with them."""
    results = []
    for least in (2**60, 0):
        monkeypatch.setattr(negatives, "_STREAM_FROM", least)
        results.append(run())
    return results


def _assert_equal(plain, tiled, gradient_tolerance=1e-5):
    np.testing.assert_allclose(tiled[0], plain[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(tiled[1], plain[1])
    error = np.linalg.norm(tiled[2] - plain[2]) / np.linalg.norm(plain[2])
    assert error < gradient_tolerance


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("n", "d", "temperature"),
    [(2, 3, 0.5), (7, 16, 0.1), (33, 128, 0.05), (130, 5, 1.0), (513, 128, 0.1), (40, 8, 0.02)],
)
def test_tiles_are_the_plain_form(monkeypatch, n, d, temperature, jit_compile, name):
    function, _, value, gradients = SOFTMAX[name]
    z_a, z_b = (tf.constant(z) for z in _pair(n, d, seed=n, noise=1.5))
    plain, tiled = _in_both_forms(
        monkeypatch,
        lambda: tf.function(_everything, jit_compile=jit_compile)(z_a, z_b, temperature, function),
    )
    _assert_equal(plain, tiled)
    z_a, z_b = z_a.numpy(), z_b.numpy()
    np.testing.assert_allclose(tiled[0], value(z_a, z_b, temperature), rtol=1e-5)
    expected = np.concatenate(gradients(z_a, z_b, temperature))
    assert np.linalg.norm(tiled[2] - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("noise", [0.01, 0.1, 10.0])
def test_tiles_of_clustered_embeddings_at_their_lowest_temperature(monkeypatch, noise):
    rng = np.random.default_rng(1)
    centre = rng.normal(size=16)
    z_a, z_b = (
        tf.constant(centre + noise * rng.normal(size=(520, 16)), tf.float32) for _ in range(2)
    )
    temperature = 1 / LOG_SUM_EXP.largest_logit
    plain, tiled = _in_both_forms(
        monkeypatch, lambda: tf.function(_everything)(z_a, z_b, temperature)
    )
    # Logits of 50 are themselves rounded to 4e-6.
    np.testing.assert_allclose(tiled[0], plain[0], rtol=1e-5)
    assert np.linalg.norm(tiled[2] - plain[2]) < 1e-4 * np.linalg.norm(plain[2])


@pytest.mark.parametrize("rows", [48, 300, 1024])
def test_tiles_of_any_height(monkeypatch, rows):
    monkeypatch.setattr(streaming, "_MOST_ROWS", rows)
    z_a, z_b = (tf.constant(z) for z in _pair(600, 16, noise=1.5))
    plain, tiled = _in_both_forms(monkeypatch, lambda: tf.function(_everything)(z_a, z_b, 0.2))
    _assert_equal(plain, tiled)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_tiles_in_half_precision(monkeypatch, dtype):
    z_a, z_b = (tf.cast(z, dtype) for z in _pair(130, 32, noise=1.5))
    plain, tiled = _in_both_forms(monkeypatch, lambda: tf.function(_everything)(z_a, z_b, 0.1))
    # Both gradients are rounded to the dtype of z at the end.
    _assert_equal(plain, tiled, gradient_tolerance=1e-3)


def test_a_collapsed_encoder_looks_collapsed_in_tiles(monkeypatch):
    monkeypatch.setattr(negatives, "_STREAM_FROM", 0)
    z = np.tile(np.random.default_rng(3).normal(size=(1, 64)).astype(np.float32), [200, 1])
    out = _nt_xent(z, z, 0.1)
    np.testing.assert_allclose(out.loss, math.log(399), rtol=1e-5)
    np.testing.assert_array_equal(out.positive_rank, np.full(400, 398))


def test_tiles_where_they_are_faster_and_fit():
    large = 2**20
    assert negatives._form(1024, 10.0, 50.0) is streaming
    assert negatives._form(1022, 10.0, 50.0) is dense
    assert negatives._form(None, 10.0, 50.0) is dense  # A size that is known only when it runs.
    assert negatives._form(large, 51.0, 50.0) is dense  # Exponentials that do not fit.


def test_memory_is_linear_in_the_batch():
    def peak(pairs):
        spec = tf.TensorSpec([pairs, 64], tf.float32)
        return peak_bytes(tf.function(_everything).get_concrete_function(spec, spec, 0.1))

    few, many = peak(16384), peak(32768)
    assert 2**26 < few < 32768**2 * 4 / 16  # More than a tile, much less than the matrix.
    assert many < 2.2 * few


# --- positive rank ---


@pytest.mark.parametrize(("n", "d"), [(2, 3), (8, 2), (33, 8)])
def test_positive_rank_counts_the_negatives_ahead(n, d):
    z_a, z_b = _pair(n, d, seed=n, noise=1.0)
    strict, with_ties = oracle.positive_rank(z_a, z_b)
    np.testing.assert_array_equal(strict, with_ties)
    if n == 33:
        assert 0 < np.mean(strict == 0) < 1  # the case tells ranks apart
    np.testing.assert_array_equal(_nt_xent(z_a, z_b, 0.1).positive_rank, strict)


def test_positive_rank_extremes():
    axes = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(_nt_xent(axes, 2 * axes).positive_rank, np.zeros(8))
    np.testing.assert_array_equal(_nt_xent(axes, -axes).positive_rank, np.full(8, 6))
    one = _nt_xent(axes[:1], -axes[:1])
    np.testing.assert_array_equal(one.positive_rank, [0, 0])  # no negatives to lose against


@pytest.mark.parametrize(("n", "d"), [(2, 1), (8, 3), (33, 128), (257, 10)])
def test_collapsed_embeddings_are_not_hits(n, d):
    z = np.tile(np.random.default_rng(d).normal(size=(1, d)).astype(np.float32), [n, 1])
    rank = _nt_xent(z, z, 0.1).positive_rank.numpy()
    assert rank.min() > 0
    if n > 8:
        assert rank.min() > 5  # nor top-5 hits
    assert np.all(rank <= 2 * n - 2)


# --- alignment, uniformity, chance ---


@pytest.mark.parametrize(("n", "d"), [(2, 2), (7, 16), (33, 4)])
def test_alignment_and_uniformity(n, d):
    z_a, z_b = _pair(n, d, seed=n)
    np.testing.assert_allclose(_alignment(z_a, z_b), metrics_oracle.alignment(z_a, z_b), rtol=1e-5)
    np.testing.assert_allclose(
        _uniformity(z_a), metrics_oracle.uniformity(z_a), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 2), (32, 16), (32, 128)])
def test_the_untrained_level_is_the_mean_loss_of_random_directions(n, d, temperature):
    rng = np.random.default_rng(1)
    draws = [oracle.nt_xent_dense(*rng.standard_normal([2, n, d]), temperature) for _ in range(200)]
    error = np.std(draws) / np.sqrt(len(draws))
    level = losses.untrained_level(n, d, temperature)
    assert level == pytest.approx(np.mean(draws), abs=5 * error + 0.01)
    assert level >= losses.chance_level(n) - 0.01


@pytest.mark.parametrize(("n", "d", "temperature"), [(8192, 128, 0.1), (4096, 16, 0.5)])
def test_the_untrained_level_of_a_large_batch_has_a_closed_form(n, d, temperature):
    # E exp(s / T) over the sphere is the normaliser of a von Mises-Fisher law, kappa = 1 / T.
    kappa, order = 1 / temperature, d / 2 - 1
    log_mean = math.lgamma(d / 2) + order * math.log(2 / kappa) + math.log(iv(order, kappa))
    expected = losses.chance_level(n) + log_mean
    assert losses.untrained_level(n, d, temperature) == pytest.approx(expected, abs=0.01)


def test_the_untrained_level_is_finite_at_any_temperature():
    for temperature in (1e-6, 1e6):
        assert math.isfinite(losses.untrained_level(4, 8, temperature))
    assert losses.untrained_level(4, 8, 1e6) == pytest.approx(losses.chance_level(4), abs=1e-4)


def test_alignment_and_uniformity_closed_forms():
    axes = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(_alignment(axes, 5 * axes), 0.0, atol=1e-6)
    np.testing.assert_allclose(_alignment(axes, -axes), 4.0, rtol=1e-6)
    np.testing.assert_allclose(_uniformity(axes), -4.0, rtol=1e-6)  # d^2 = 2
    np.testing.assert_allclose(_uniformity(np.ones((5, 3), np.float32)), 0.0, atol=1e-5)
    antipodes = np.array([[1, 0], [-1, 0]], np.float32)
    np.testing.assert_allclose(_uniformity(antipodes), -8.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_alignment_and_uniformity_in_half_precision(dtype):
    z_a, z_b = (tf.cast(z * 1000, dtype) for z in _pair(8, 16))
    numbers = z_a.numpy().astype(np.float64), z_b.numpy().astype(np.float64)
    np.testing.assert_allclose(
        losses.alignment(z_a, z_b), metrics_oracle.alignment(*numbers), rtol=1e-4
    )
    np.testing.assert_allclose(
        losses.uniformity(z_a), metrics_oracle.uniformity(numbers[0]), rtol=1e-4
    )


# --- replicas ---


def _split(strategy, array):
    """Rows of the global batch, handed to the replicas in order."""
    parts = np.split(array, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("n", [4, 12])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_add_up_to_the_global_batch(monkeypatch, replicas, n, tiles, name):
    function, loss_class, value, gradients = SOFTMAX[name]
    monkeypatch.setattr(negatives, "_STREAM_FROM", 0 if tiles else 2**60)
    rng = np.random.default_rng(replicas)
    x_a, x_b = _pair(n, 6, noise=0.5)
    kernel = rng.normal(size=(6, 5)).astype(np.float32)
    temperature = 0.2
    strategy = mirrored(replicas)

    @tf.function
    def run(a, b):
        def replica(x_a, x_b):
            w = tf.constant(kernel)
            with tf.GradientTape() as tape:
                tape.watch([w, x_a, x_b])
                out = function(x_a @ w, x_b @ w, temperature)
                share = out.loss / replicas
            same = loss_class(temperature)(x_a @ w, x_b @ w)
            return out.loss, same, out.positive_rank, tape.gradient(share, [w, x_a, x_b])

        return strategy.run(replica, (a, b))

    loss, same, rank, grads = tf.nest.map_structure(
        lambda value: [v.numpy() for v in strategy.experimental_local_results(value)],
        run(_split(strategy, x_a), _split(strategy, x_b)),
    )
    z_a, z_b = x_a @ kernel, x_b @ kernel
    expected = value(z_a, z_b, temperature)
    np.testing.assert_allclose(np.mean(loss), expected, rtol=1e-5)
    np.testing.assert_allclose(np.mean(same), expected, rtol=1e-5)
    if replicas > 1:
        assert np.ptp(loss) > 1e-3  # each replica reports its own views

    dz_a, dz_b = gradients(z_a, z_b, temperature)
    dw = x_a.T @ dz_a + x_b.T @ dz_b
    np.testing.assert_allclose(np.sum(grads[0], axis=0), dw, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(grads[1]), dz_a @ kernel.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(grads[2]), dz_b @ kernel.T, rtol=1e-4, atol=1e-5)

    halves = [np.split(part, 2) for part in rank]  # a replica's own first views, then second
    by_view = np.concatenate([h[0] for h in halves] + [h[1] for h in halves])
    np.testing.assert_array_equal(by_view, oracle.positive_rank(z_a, z_b)[0])


def test_one_pair_per_replica():
    z_a, z_b = _pair(4, 3)
    strategy = mirrored(4)
    run = tf.function(
        lambda a, b: strategy.run(lambda p, q: losses.nt_xent(p, q, 0.5).loss, (a, b))
    )
    results = strategy.experimental_local_results(run(_split(strategy, z_a), _split(strategy, z_b)))
    np.testing.assert_allclose(np.mean(results), oracle.nt_xent(z_a, z_b, 0.5), rtol=1e-5)


@pytest.mark.parametrize("tiles", [False, True])
def test_one_gather_forward_and_one_of_two_numbers_a_row_back(monkeypatch, tiles):
    monkeypatch.setattr(negatives, "_STREAM_FROM", 0 if tiles else 2**60)
    sent, gather = [], negatives.gather_others
    monkeypatch.setattr(
        negatives, "gather_others", lambda x: (sent.append(x.shape.as_list()), gather(x))[1]
    )
    z_a, z_b = _pair(8, 32)
    strategy = mirrored(2)
    run = tf.function(lambda a, b: strategy.run(_everything, (a, b, 0.1)))
    graph = run.get_concrete_function(_split(strategy, z_a), _split(strategy, z_b)).graph
    # On each of the two replicas: 8 rows of 32 numbers, then 2 numbers for each.
    assert sent == [[8, 32], [8, 32], [8, 2], [8, 2]]
    collectives = [op.type for op in graph.get_operations() if op.type.startswith("Collective")]
    # Nothing else; TensorFlow's gather is two operations, of the lengths and of the rows.
    assert collectives == ["CollectiveGatherV2"] * 2 * len(sent)
