"""Builds an optimiser by name, with the same rule for weight decay in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.optim.lamb import LAMB
from tf_simclr.optim.lars import LARS, is_adapted
from tf_simclr.stack import keras

OPTIMIZERS = ("lars", "momentum", "adamw", "lamb")


def build_optimizer(
    name: str,
    learning_rate,
    *,
    variables: Sequence[tf.Variable],
    weight_decay: float = 0.0,
    momentum: float = 0.9,
) -> keras.optimizers.Optimizer:
    """Builds an optimiser whose weight decay applies to kernels only.

    Biases and normalisation variables (rank <= 1) never decay (`decay_sets`). "lars" adds the decay
    to the gradient; "momentum" (Nesterov SGD), "adamw" and "lamb" decouple it.
    Differs from google-research/simclr (tf2/model.py), whose momentum and adam add an l2 loss that
    also includes biases.

    Args:
      name: "lars" and "lamb" (ours), "momentum" and "adamw" (Keras).
      learning_rate: float or schedule.
      variables: the variables to train.
      weight_decay: >= 0.
      momentum: for lars and momentum, in [0, 1).

    Returns:
      The optimiser, already built, so that checkpoints can be restored into it.

    Raises:
      UserError: unknown name, or a value out of range.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    if weight_decay < 0.0:
        raise UserError(f"weight_decay must be >= 0; received {weight_decay!r}.")
    if name == "lars":
        optimizer = LARS(learning_rate, momentum=momentum, weight_decay=weight_decay)
    elif name == "lamb":
        optimizer = LAMB(learning_rate, weight_decay=weight_decay)
    elif name == "momentum":
        optimizer = keras.optimizers.SGD(
            learning_rate, momentum=momentum, nesterov=True, weight_decay=weight_decay or None
        )
        _spare_vectors(optimizer, variables)
    else:
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
        _spare_vectors(optimizer, variables)
    optimizer.build(variables)
    return optimizer


def _spare_vectors(optimizer, variables) -> None:
    """Excludes vectors from Keras' weight decay; LARS and LAMB do so themselves."""
    _, spared = decay_sets(variables)
    optimizer.exclude_from_weight_decay(var_list=spared)


def decay_sets(variables: Sequence[tf.Variable]) -> tuple[list, list]:
    """Splits `variables` by rank into (kernels, which decay; vectors, which do not)."""
    decayed = [v for v in variables if is_adapted(v)]
    spared = [v for v in variables if not is_adapted(v)]
    return decayed, spared
