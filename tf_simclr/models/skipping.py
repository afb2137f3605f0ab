"""Leaving out the update of a step whose gradient is no number."""

from __future__ import annotations

import tensorflow as tf

_NEVER = 2**62  # Steps until Keras would raise the scale.


def skipping(optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
    """The optimiser, leaving out updates with a NaN or infinite gradient, on all replicas alike.

    Keras' optimiser for float16 does that, under every strategy; here with a loss scale of 1,
    below which it does not fall and above which it never goes.
    """
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        return optimizer
    return tf.keras.mixed_precision.LossScaleOptimizer(
        optimizer, initial_scale=1.0, dynamic_growth_steps=_NEVER
    )


def keep_finite(variables: list[tf.Variable], before: list[tf.Tensor]) -> None:
    """Puts the values of `before` back if any of the variables has become NaN or infinite."""
    floats = [(v, old) for v, old in zip(variables, before) if v.dtype.is_floating]
    if not floats:
        return
    finite = tf.stack([tf.reduce_all(tf.math.is_finite(v.read_value())) for v, _ in floats])
    sound = tf.reduce_all(finite)
    for variable, old in floats:
        variable.assign(tf.where(sound, variable.read_value(), old))
