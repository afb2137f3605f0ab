"""One optimiser by name, with the same rule for what decays in every one of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.optim.lars import LARS, is_adapted

OPTIMIZERS = ("lars", "momentum", "adamw", "lamb")


def build_optimizer(
    name: str,
    learning_rate,
    *,
    variables: Sequence[tf.Variable],
    weight_decay: float = 0.0,
    momentum: float = 0.9,
) -> tf.keras.optimizers.Optimizer:
    """Builds an optimiser whose weight decay touches kernels only.

    Biases and normalisation variables (rank <= 1) never decay (`decay_sets`). "lars" couples the
    decay with the gradient; "momentum" (Nesterov SGD), "adamw" and "lamb" decouple it.
    Differs from google-research/simclr (tf2/model.py): its momentum and adam add an l2 loss, which
    also reaches biases.

    Args:
      name: "lars" (ours), "momentum" and "adamw" (Keras), "lamb" (tensorflow-addons).
      learning_rate: float or schedule.
      variables: the trainable variables it will be given.
      weight_decay: >= 0.
      momentum: for lars and momentum, in [0, 1).

    Returns:
      The optimiser, built, so that checkpoints restore at once.

    Raises:
      UserError: unknown name, or a value out of range.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    if weight_decay < 0.0:
        raise UserError(f"weight_decay must be >= 0; received {weight_decay!r}.")
    decayed, spared = decay_sets(variables)
    if name == "lamb":
        optimizer = _lamb(learning_rate, weight_decay, decayed, spared)
        optimizer._create_all_weights(variables)  # A legacy optimiser has no public build.
        return optimizer
    if name == "lars":
        optimizer = LARS(learning_rate, momentum=momentum, weight_decay=weight_decay)
    elif name == "momentum":
        optimizer = tf.keras.optimizers.SGD(
            learning_rate, momentum=momentum, nesterov=True, weight_decay=weight_decay or None
        )
    else:
        optimizer = tf.keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    if name != "lars" and weight_decay:
        optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(variables)
    return optimizer


def decay_sets(variables: Sequence[tf.Variable]) -> tuple[list, list]:
    """(decayed, spared): a partition of `variables` by rank, kernels from vectors."""
    decayed = [v for v in variables if is_adapted(v)]
    spared = [v for v in variables if not is_adapted(v)]
    return decayed, spared


def _lamb(learning_rate, weight_decay, decayed, spared):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That TensorFlow Addons has ended is why it is pinned.
        import tensorflow_addons as tfa  # Slow to import, and rarely needed.

    # LAMB takes patterns only, so each spared variable gets one that matches nothing else.
    names = [v.name.split(":")[0] for v in spared]
    clash = set(names) & {v.name.split(":")[0] for v in decayed}
    if clash:
        raise UserError(f"lamb tells variables apart by name; these are ambiguous: {sorted(clash)}")
    patterns = [f"^{re.escape(name)}(:0)?$" for name in names]
    return tfa.optimizers.LAMB(
        learning_rate,
        weight_decay_rate=weight_decay,
        exclude_from_weight_decay=patterns,
        exclude_from_layer_adaptation=patterns,
    )
