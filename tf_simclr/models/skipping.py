"""Skips the update of a step whose gradient is NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.losses import replica_share
from tf_simclr.models.recompute import read

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


def saved_form(optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
    """What a checkpoint holds of an optimiser: of one that `skipping` made, the one inside.

    So a run can be resumed with and without `--skip_bad_steps`.
    """
    if not isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        return optimizer
    ours = optimizer.dynamic_growth_steps == _NEVER
    return optimizer.inner_optimizer if ours else optimizer


def counting_skips(
    step: Callable,
    optimizer: tf.keras.mixed_precision.LossScaleOptimizer,
    moving: list[tf.Variable],
    skipped: tf.keras.metrics.Metric,
) -> Callable:
    """The step, which may leave out its update, counting it and keeping statistics finite.

    Args:
      step: a function that updates by the optimiser, and moves statistics, once.
      optimizer: the one that may leave the update out.
      moving: the statistics; put back if they have become NaN or infinite.
      skipped: gets 1 for a step left out, 0 for another, over all replicas.
    """

    def count(*arguments):
        before, scale = read(moving), tf.identity(optimizer.loss_scale)
        told = step(*arguments)
        keep_finite(moving, before)
        # Keras counts good steps, from 0 again after a bad one or when it raises the scale.
        bad = (optimizer.dynamic_counter == 0) & (optimizer.loss_scale <= scale)
        skipped.update_state(replica_share(tf.cast(bad, tf.float32)))
        return told

    return count


def keep_finite(variables: list[tf.Variable], before: list[tf.Tensor]) -> None:
    """Puts the values of `before` back if any of the variables has become NaN or infinite."""
    floats = [(v, old) for v, old in zip(variables, before) if v.dtype.is_floating]
    if not floats:
        return
    finite = tf.stack([tf.reduce_all(tf.math.is_finite(v.read_value())) for v, _ in floats])
    sound = tf.reduce_all(finite)
    for variable, old in floats:
        variable.assign(tf.where(sound, variable.read_value(), old))
