"""LARS: three steps worked by hand, whole runs of the oracle, and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.optim.cases import as_variables, draw_gradients, draw_start, take_step
from tests.reference.lars import lars_step
from tests.reference.schedules import warmup_cosine
from tf_simclr.errors import UserError
from tf_simclr.optim.lars import LARS, lars_update
from tf_simclr.optim.schedules import WarmupCosine

# eta 0.1, momentum 0.5, weight decay 0.1, learning rates 1, 2, 0.5. By hand, for the kernel:
# 1: g' = (2.7, 3.6) + 0.3, 0.4 = (3, 4);       trust = 0.1 * 5 / 5;     v = (0.3, 0.4)
# 2: g' = (-2.97, 3.24) + 0.27, 0.36 = (-2.7, 3.6); trust = 0.1 * 4.5 / 4.5;
#    v = 0.5 (0.3, 0.4) + 2 * 0.1 (-2.7, 3.6) = (-0.39, 0.92)
# 3: g' = (0, -2); |w| = sqrt(3.09^2 + 2.68^2) = 4.09029339; trust = 0.1 * 4.09029339 / 2;
#    v = 0.5 (-0.39, 0.92) + 0.5 * trust * (0, -2) = (-0.195, 0.25548533)
HAND_ETA, HAND_MOMENTUM, HAND_DECAY, HAND_RATES = 0.1, 0.5, 0.1, (1.0, 2.0, 0.5)
HAND_START = [[3.0, 4.0]]
HAND_GRADIENTS = ([[2.7, 3.6]], [[-2.97, 3.24]], [[-0.309, -2.268]])
HAND_BUFFERS = ([[0.3, 0.4]], [[-0.39, 0.92]], [[-0.195, 0.25548533]])
HAND_WEIGHTS = ([[2.7, 3.6]], [[3.09, 2.68]], [[3.285, 2.42451467]])
# A bias, gradient (0.5, -1) each time, takes v = 0.5 v + lr g alone.
HAND_BIAS = ([0.5, 3.0], [-0.75, 5.5], [-1.625, 7.25])


def test_three_steps_by_hand_of_the_pure_update():
    w, v = tf.constant(HAND_START), tf.zeros([1, 2])
    for lr, g, buffer, weights in zip(HAND_RATES, HAND_GRADIENTS, HAND_BUFFERS, HAND_WEIGHTS):
        w, v = lars_update(w, tf.constant(g), v, lr, HAND_MOMENTUM, HAND_DECAY, HAND_ETA)
        np.testing.assert_allclose(v, buffer, rtol=1e-5)
        np.testing.assert_allclose(w, weights, rtol=1e-6)


def test_three_steps_by_hand_of_the_optimizer():
    kernel, bias = tf.Variable(HAND_START), tf.Variable([1.0, 2.0])
    optimizer = LARS(1.0, HAND_MOMENTUM, HAND_DECAY, HAND_ETA)
    for lr, g, weights, bias_now in zip(HAND_RATES, HAND_GRADIENTS, HAND_WEIGHTS, HAND_BIAS):
        optimizer.learning_rate = lr
        take_step(optimizer, [np.float32(g), np.float32([0.5, -1.0])], [kernel, bias])
        np.testing.assert_allclose(kernel, weights, rtol=1e-6)
        np.testing.assert_allclose(bias, bias_now, rtol=1e-6)
    assert int(optimizer.iterations) == 3


def test_defaults():
    config = LARS(0.1).get_config()
    assert (config["momentum"], config["weight_decay"], config["eta"]) == (0.9, 0.0, 0.001)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("eta", "graph"), [(0.001, False), (0.001, True), (0.02, True)])
def test_a_hundred_steps_through_warmup(weight_decay, momentum, eta, graph):
    peak, warmup, total = 1.5, 20, 100
    settings = {"momentum": momentum, "weight_decay": weight_decay, "eta": eta}
    variables = as_variables(draw_start())
    optimizer = LARS(WarmupCosine(peak, warmup, total), **settings)
    optimizer.build(variables)
    step_once = lambda gradients: optimizer.apply_gradients(zip(gradients, variables))  # noqa: E731
    step_once = tf.function(step_once) if graph else step_once

    expected = [w.astype(np.float64) for w in draw_start()]
    buffers = [np.zeros_like(w) for w in expected]
    for step, gradients in enumerate(draw_gradients(100)):
        step_once([tf.constant(g) for g in gradients])
        lr = warmup_cosine(step, peak, warmup, total)
        for i, g in enumerate(gradients):
            expected[i], buffers[i] = lars_step(
                expected[i], g, buffers[i], lr=lr, adapt=g.ndim > 1, **settings
            )
        if step in (0, 1, 19, 20, 99):
            for variable, want in zip(variables, expected):
                np.testing.assert_allclose(variable, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("zero", ["weights", "gradient", "both"])
def test_zero_norms(zero, weight_decay):
    w = np.zeros((2, 3), np.float32) if zero != "gradient" else draw_start()[0][:2, :3]
    g = np.zeros((2, 3), np.float32) if zero != "weights" else np.full((2, 3), 0.5, np.float32)
    settings = {"momentum": 0.9, "weight_decay": weight_decay, "eta": 0.001}
    v = np.full((2, 3), 0.25, np.float32)
    got_w, got_v = lars_update(tf.constant(w), tf.constant(g), tf.constant(v), 0.1, **settings)
    want_w, want_v = lars_step(w, g, v, lr=0.1, **settings)
    np.testing.assert_allclose(got_v, want_v, rtol=1e-6)
    np.testing.assert_allclose(got_w, want_w, rtol=1e-6)
    if zero == "weights":  # trust 1: the plain momentum step
        np.testing.assert_allclose(got_v, 0.9 * v + 0.1 * g, rtol=1e-6)


def test_tiny_and_huge_gradients_keep_the_same_step_length():
    w = tf.constant(draw_start()[0])
    steps = []
    for scale in (1e-12, 1.0, 1e12):
        g = tf.constant(draw_gradients(1)[0][0] * np.float32(scale))
        steps.append(lars_update(w, g, tf.zeros_like(w), 0.1, 0.9, 0.0, 0.001)[1])
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-4)
    np.testing.assert_allclose(steps[2], steps[1], rtol=1e-4)


@pytest.mark.parametrize("shape", [(), (6,)])
def test_biases_and_norms_take_plain_momentum_whatever_their_name(shape):
    start = np.full(shape, 2.0, np.float32)
    for name in ("kernel", "gamma"):
        variable = tf.Variable(start, name=name)
        optimizer = LARS(0.1, momentum=0.5, weight_decay=10.0, eta=1e-6)
        for _ in range(2):
            take_step(optimizer, [np.full(shape, 3.0, np.float32)], [variable])
        np.testing.assert_allclose(variable, start - 0.3 - 0.45, rtol=1e-6)


def test_kernels_adapt_whatever_their_name():
    for name in ("bias", "batch_normalization/gamma", "head_supervised/kernel"):
        variable = tf.Variable([[3.0, 4.0]], name=name)
        take_step(LARS(1.0, eta=0.1), [np.float32([[30.0, 40.0]])], [variable])
        np.testing.assert_allclose(variable, [[2.7, 3.6]], rtol=1e-6)


def test_compiled_is_the_same():
    def run(jit_compile):
        variables = as_variables(draw_start())
        optimizer = LARS(WarmupCosine(1.0, 2, 8), weight_decay=1e-2, eta=0.05)
        optimizer.build(variables)
        apply = tf.function(
            lambda g: optimizer.apply_gradients(zip(g, variables)), jit_compile=jit_compile
        )
        for gradients in draw_gradients(8):
            apply([tf.constant(g) for g in gradients])
        return variables

    for got, want in zip(run(True), run(False)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

    pure = tf.function(lars_update, jit_compile=True)
    w, g = (tf.constant(x) for x in (draw_start()[0], draw_gradients(1)[0][0]))
    for got, want in zip(
        pure(w, g, 0.1 * g, 0.5, 0.9, 1e-2, 0.05),
        lars_step(w, g, 0.1 * g, lr=0.5, momentum=0.9, weight_decay=1e-2, eta=0.05),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("argument", "value"), [("momentum", -0.1), ("weight_decay", -1e-4), ("eta", -0.001)]
)
def test_bad_arguments(argument, value):
    with pytest.raises(UserError, match=argument):
        LARS(0.1, **{argument: value})
