"""LAMB: steps worked by hand, the oracle, tensorflow-addons, and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.optim.cases import as_variables, draw_gradients, draw_start, take_step
from tests.reference.lamb import lamb_step
from tests.reference.schedules import warmup_cosine
from tests.replicas import mirrored
from tf_simclr.errors import UserError
from tf_simclr.optim.lamb import LAMB, lamb_update
from tf_simclr.optim.schedules import WarmupCosine

# Three steps of the kernel, worked by hand with the settings below and learning rates 0.8, 0.75 and
# 0.5. The squares of the gradients never change, so v_hat = (9, 1) and its square root is (3, 1).
# 1: m_hat = g = (-3, -1);       r = m_hat / (4, 2) = (-3/4, -1/2);
#    update = r + (3, 4) / 4 = (0, 1/2);    trust = 5 / (1/2) = 10;   w = (3, 4 - 0.8 * 10 / 2)
# 2: m_hat = (-9/4, 1/4) / (3/4) = (-3, 1/3);          r = (-3/4, 1/6);
#    update = r + (3, 0) / 4 = (0, 1/6);    trust = 3 / (1/6) = 18;   w = (3, 0 - 0.75 * 18 / 6)
# 3: m_hat = (3/8, 5/8) / (7/8) = (3/7, 5/7);          r = (3/28, 5/14);
#    update = r + (3, -9/4) / 4 = (6/7, -23/112);      trust = (15/4) / 0.881399701 = 4.254596404
HAND = {"beta_1": 0.5, "beta_2": 0.75, "epsilon": 1.0, "weight_decay": 0.25}
HAND_RATES = (0.8, 0.75, 0.5)
HAND_START = [[3.0, 4.0]]
HAND_GRADIENTS = ([[-3.0, -1.0]], [[-3.0, 1.0]], [[3.0, 1.0]])
HAND_FIRST = ([[-1.5, -0.5]], [[-2.25, 0.25]], [[0.375, 0.625]])
HAND_SECOND = ([[2.25, 0.25]], [[3.9375, 0.4375]], [[5.203125, 0.578125]])
HAND_WEIGHTS = ([[3.0, 0.0]], [[3.0, -2.25]], [[1.176601541, -1.813144119]])
# A bias of (1, 2) with the same gradients: w - lr * r.
HAND_BIAS = ([1.6, 2.4], [2.1625, 2.275], [2.108928571, 2.096428571])

# Float32 against float64. A step changes a kernel by lr * |w| and a vector by about lr, with lr at
# most 0.02 and a relative error of about 1e-7. The largest difference seen after 100 steps is
# 1.7e-6; between tensorflow-addons and the oracle it is 1.2e-6 (CPU, weights of about 1).
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def run_of_oracle(values, gradients_of_steps, learning_rate, **settings) -> list[list[np.ndarray]]:
    """The variables after each step; `learning_rate` maps the number of steps done to a rate."""
    states = [(w, np.zeros_like(w), np.zeros_like(w)) for w in values]
    trajectory = []
    for done, gradients in enumerate(gradients_of_steps):
        lr = learning_rate(done)
        states = [
            lamb_step(w, g, m, v, step=done + 1, lr=lr, adapt=g.ndim > 1, **settings)
            for (w, m, v), g in zip(states, gradients)
        ]
        trajectory.append([w for w, _, _ in states])
    return trajectory


def test_three_steps_by_hand_of_the_pure_update():
    w, m, v = tf.constant(HAND_START), tf.zeros([1, 2]), tf.zeros([1, 2])
    rows = zip(HAND_RATES, HAND_GRADIENTS, HAND_FIRST, HAND_SECOND, HAND_WEIGHTS)
    for step, (lr, g, first, second, weights) in enumerate(rows, start=1):
        w, m, v = lamb_update(w, tf.constant(g), m, v, float(step), lr, adapt=True, **HAND)
        np.testing.assert_allclose(m, first, rtol=1e-6)
        np.testing.assert_allclose(v, second, rtol=1e-6)
        np.testing.assert_allclose(w, weights, rtol=1e-6, atol=1e-6)


def test_three_steps_by_hand_of_the_oracle():
    w, m, v = HAND_START, np.zeros([1, 2]), np.zeros([1, 2])
    for step, (lr, g, weights) in enumerate(zip(HAND_RATES, HAND_GRADIENTS, HAND_WEIGHTS), start=1):
        w, m, v = lamb_step(w, g, m, v, step=step, lr=lr, **HAND)
        np.testing.assert_allclose(w, weights, rtol=1e-9, atol=1e-9)


def test_three_steps_by_hand_of_the_optimizer():
    kernel, bias = tf.Variable(HAND_START), tf.Variable([1.0, 2.0])
    optimizer = LAMB(1.0, **HAND)
    for lr, g, weights, bias_now in zip(HAND_RATES, HAND_GRADIENTS, HAND_WEIGHTS, HAND_BIAS):
        optimizer.learning_rate = lr
        take_step(optimizer, [np.float32(g), np.float32(g[0])], [kernel, bias])
        np.testing.assert_allclose(kernel, weights, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(bias, bias_now, rtol=1e-6)
    assert int(optimizer.iterations) == 3


def test_defaults_are_those_of_tensorflow_addons():
    names = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay")
    config = LAMB().get_config()
    assert [config[name] for name in names] == pytest.approx([1e-3, 0.9, 0.999, 1e-6, 0.0])
    tfa = pytest.importorskip("tensorflow_addons")
    theirs = tfa.optimizers.LAMB().get_config()
    assert [config[name] for name in names] == pytest.approx([theirs[name] for name in names])


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1e-1])
@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.999), (0.5, 0.9)])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_hundred_steps_through_warmup(weight_decay, beta_1, beta_2, graph):
    peak, warmup, total = 0.02, 20, 100
    settings = {"beta_1": beta_1, "beta_2": beta_2, "weight_decay": weight_decay}
    variables = as_variables(draw_start())
    optimizer = LAMB(WarmupCosine(peak, warmup, total), **settings)
    optimizer.build(variables)
    step_once = lambda gradients: optimizer.apply_gradients(zip(gradients, variables))  # noqa: E731
    step_once = tf.function(step_once) if graph else step_once
    expected = run_of_oracle(
        draw_start(),
        draw_gradients(100),
        lambda done: warmup_cosine(done, peak, warmup, total),
        **settings,
    )
    for step, gradients in enumerate(draw_gradients(100)):
        step_once([tf.constant(g) for g in gradients])
        for variable, want in zip(variables, expected[step]):
            np.testing.assert_allclose(variable, want, **CLOSE, err_msg=f"diverged at step {step}")


@pytest.mark.parametrize("weight_decay", [0.0, 1e-1])
def test_a_hundred_steps_of_tensorflow_addons(weight_decay):
    tfa = pytest.importorskip("tensorflow_addons")
    vectors = [f"v{i}" for i, value in enumerate(draw_start()) if value.ndim <= 1]
    optimizers = (
        LAMB(WarmupCosine(0.02, 20, 100), weight_decay=weight_decay),
        tfa.optimizers.LAMB(
            WarmupCosine(0.02, 20, 100),
            weight_decay=weight_decay,
            exclude_from_weight_decay=vectors,
            exclude_from_layer_adaptation=vectors,
        ),
    )
    ours, theirs = as_variables(draw_start()), as_variables(draw_start())
    for step, gradients in enumerate(draw_gradients(100)):
        for optimizer, variables in zip(optimizers, (ours, theirs)):
            take_step(optimizer, gradients, variables)
        for got, want in zip(ours, theirs):
            np.testing.assert_allclose(got, want, **CLOSE, err_msg=f"diverged at step {step}")


def test_the_first_step_follows_the_signs():
    # m_hat = g and v_hat = g^2, so that r = g / (|g| + epsilon): the signs, whatever the scale.
    signs = np.float32([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    w = np.float32([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    for scale in (1e-2, 1.0, 1e12):
        kernel, bias = tf.Variable(w), tf.Variable([3.0, 4.0])
        take_step(LAMB(0.1), [scale * signs, scale * signs[0, :2]], [kernel, bias])
        # lr * trust = 0.1 * 5 / sqrt(6); epsilon / |g| is at most 1e-4.
        np.testing.assert_allclose(kernel, w - 0.5 / np.sqrt(6.0) * signs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(bias, [2.9, 4.1], rtol=1e-5)


def test_zero_gradients_leave_the_decay():
    # update = weight_decay * w, so that trust = 1 / weight_decay, and w <- (1 - lr) * w.
    kernel, bias = tf.Variable([[3.0, 4.0]]), tf.Variable([3.0, 4.0])
    optimizer = LAMB(0.1, weight_decay=0.03)
    gradients = [np.zeros([1, 2], np.float32), np.zeros([2], np.float32)]
    for power in (1, 2, 3):
        take_step(optimizer, gradients, [kernel, bias])
        np.testing.assert_allclose(kernel, 0.9**power * np.float32([[3.0, 4.0]]), rtol=1e-6)
        np.testing.assert_array_equal(bias, [3.0, 4.0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("zero", ["weights", "gradient", "both"])
def test_zero_norms(zero, weight_decay):
    w = np.zeros((2, 3), np.float32) if zero != "gradient" else draw_start()[0][:2, :3]
    g = np.zeros((2, 3), np.float32) if zero != "weights" else np.full((2, 3), 0.5, np.float32)
    variable = tf.Variable(w)
    take_step(LAMB(0.1, weight_decay=weight_decay), [g], [variable])
    want = lamb_step(w, g, 0.0 * g, 0.0 * g, step=1, lr=0.1, weight_decay=weight_decay)[0]
    np.testing.assert_allclose(variable, want, rtol=1e-6)
    if zero == "weights":  # Trust 1: a kernel of zeros is updated as a bias is.
        np.testing.assert_allclose(variable, np.full((2, 3), -0.1), rtol=1e-5)
    if zero == "both":
        np.testing.assert_array_equal(variable, w)


@pytest.mark.parametrize("shape", [(), (6,)])
def test_biases_and_norms_take_plain_adam_whatever_their_name(shape):
    for name in ("kernel", "gamma"):
        variable = tf.Variable(np.full(shape, 2.0, np.float32), name=name)
        optimizer = LAMB(0.1, weight_decay=10.0)
        for _ in range(2):  # The same gradient twice: m_hat = g, v_hat = g^2.
            take_step(optimizer, [np.full(shape, 3.0, np.float32)], [variable])
        np.testing.assert_allclose(variable, np.full(shape, 1.8), rtol=1e-6)


def test_kernels_adapt_whatever_their_name():
    for name in ("bias", "batch_normalization/gamma", "head_supervised/kernel"):
        variable = tf.Variable([[3.0, 4.0]], name=name)
        take_step(LAMB(0.1), [np.float32([[5.0, 5.0]])], [variable])
        moved = 0.1 * 5.0 / np.sqrt(2.0)
        np.testing.assert_allclose(variable, [[3.0 - moved, 4.0 - moved]], rtol=1e-6)


@pytest.mark.parametrize("where", ["step", "optimizer"])
def test_compiled_is_the_same(where):
    def run(jit_compile):
        variables = as_variables(draw_start())
        optimizer = LAMB(WarmupCosine(0.02, 2, 8), weight_decay=1e-2)
        optimizer.jit_compile = jit_compile and where == "optimizer"
        optimizer.build(variables)
        step_once = tf.function(
            lambda g: optimizer.apply_gradients(zip(g, variables)),
            jit_compile=jit_compile and where == "step",
        )
        for gradients in draw_gradients(8):
            step_once([tf.constant(g) for g in gradients])
        return variables

    for got, want in zip(run(True), run(False)):
        np.testing.assert_allclose(got, want, **CLOSE)


def test_two_replicas_take_the_step_of_one():
    strategy = mirrored(2)
    settings = {"learning_rate": WarmupCosine(0.02, 1, 4), "weight_decay": 1e-2}
    with strategy.scope():
        variables = as_variables(draw_start())
        optimizer = LAMB(**settings)
        optimizer.build(variables)
    alone, single = as_variables(draw_start()), LAMB(**settings)

    @tf.function
    def step_once(gradients):
        strategy.run(lambda own: optimizer.apply_gradients(zip(own, variables)), args=(gradients,))

    for first, second in zip(draw_gradients(3), draw_gradients(3, seed=2)):
        halves = [[tf.constant(g) for g in half] for half in (first, second)]
        step_once(
            tf.nest.map_structure(
                lambda *pair: strategy.experimental_distribute_values_from_function(
                    lambda context: pair[context.replica_id_in_sync_group]
                ),
                *halves,
            )
        )
        take_step(single, [a + b for a, b in zip(first, second)], alone)
    moments = (
        *zip(optimizer.first_moments, single.first_moments),
        *zip(optimizer.second_moments, single.second_moments),
    )
    for got, want in (*zip(variables, alone), *moments):
        assert len(got.values) == 2
        for value in got.values:
            np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("beta_1", value) for value in (-0.1, 0.0, 1.0)],
        *[("beta_2", value) for value in (0.0, 1.0, float("nan"))],
        *[("epsilon", value) for value in (0.0, -1e-6)],
        ("weight_decay", -1e-4),
    ],
)
def test_bad_arguments(argument, value):
    with pytest.raises(UserError, match=f"{argument} must .*; received {value}"):
        LAMB(0.1, **{argument: value})
