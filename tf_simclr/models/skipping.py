"""Skips the update of a step whose gradient is NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.losses import replica_share
from tf_simclr.models.recompute import read
from tf_simclr.stack import keras

_NEVER = 2**62  # Steps after which Keras would raise the loss scale.


def skipping(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Wraps an optimiser to skip updates with a NaN or infinite gradient, on all replicas alike.

    Keras' optimiser for float16 does that under every strategy. Here its loss scale is 1: Keras
    never lowers it below 1, and `_NEVER` keeps it from being raised.
    """
    if isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return optimizer
    return keras.mixed_precision.LossScaleOptimizer(
        optimizer, initial_scale=1.0, dynamic_growth_steps=_NEVER
    )


def saved_form(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimiser to save in a checkpoint: the inner one, if `skipping` wrapped it.

    So a run can be resumed with or without `--skip_bad_steps`.
    """
    if not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return optimizer
    ours = optimizer.dynamic_growth_steps == _NEVER
    return optimizer.inner_optimizer if ours else optimizer


def counting_skips(
    step: Callable,
    optimizer: keras.mixed_precision.LossScaleOptimizer,
    moving: list[tf.Variable],
    skipped: keras.metrics.Metric,
) -> Callable:
    """Wraps a step to count skipped updates and to keep moving statistics finite.

    Args:
      step: a function that applies the optimiser and updates the statistics once.
      optimizer: the optimiser, which may skip the update.
      moving: the statistics; restored if they have become NaN or infinite.
      skipped: receives 1 for a skipped step and 0 for any other, over all replicas.
    """

    def count(*arguments):
        before, scale = read(moving), tf.identity(optimizer.loss_scale)
        logs = step(*arguments)
        keep_finite(moving, before)
        # Keras counts good steps. It restarts from 0 after a bad one or when it raises the scale.
        bad = (optimizer.dynamic_counter == 0) & (optimizer.loss_scale <= scale)
        skipped.update_state(replica_share(tf.cast(bad, tf.float32)))
        return logs

    return count


def keep_finite(variables: list[tf.Variable], before: list[tf.Tensor]) -> None:
    """Restores the values of `before` if any of the variables has become NaN or infinite."""
    floats = [(v, old) for v, old in zip(variables, before) if v.dtype.is_floating]
    if not floats:
        return
    finite = tf.stack([tf.reduce_all(tf.math.is_finite(v.read_value())) for v, _ in floats])
    sound = tf.reduce_all(finite)
    for variable, old in floats:
        variable.assign(tf.where(sound, variable.read_value(), old))
