"""Small variables and gradients for the tests of our optimisers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

SHAPES = ((3, 4), (4,), (2, 2, 3, 5), (), (5, 1))  # kernel, bias, convolution, scalar, kernel


def draw_start(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape), np.float32) for shape in SHAPES]


def draw_gradients(steps: int, seed: int = 1) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[np.asarray(rng.normal(size=s), np.float32) for s in SHAPES] for _ in range(steps)]


def as_variables(values) -> list[tf.Variable]:
    return [tf.Variable(value, name=f"v{i}") for i, value in enumerate(values)]


def take_step(optimizer, gradients, variables) -> None:
    optimizer.apply_gradients(zip([tf.constant(g) for g in gradients], variables))
