"""Batch normalisation: synchronised across replicas or not, and plain copies of a model.

Keras' own layer does both; on one replica the fused kernel is faster, across replicas the
statistics must be those of the global batch (paper, section 2.2). Switching it in place reaches
every encoder, keras-cv's and a user's own included.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_simclr.errors import UserError

_PLAIN = "float32"


def synchronize_batch_norm(model: tf.keras.layers.Layer, enabled: bool = True) -> int:
    """Switches every BatchNormalization below `model`, however deep, in place.

    Args:
      model: a model or layer; traced functions keep what they were traced with.
      enabled: statistics over all replicas, else each replica's own with the fused kernel.

    Returns:
      How many layers there are.
    """
    found = batch_norm_layers(model)
    for layer in found:
        layer.synchronized = enabled
        rank = layer.input_spec.ndim if layer.input_spec is not None else None
        # Keras has a fused kernel for images, and none that synchronises.
        layer.fused = not enabled and rank == 4
        # The fused kernel moves the variance by the unbiased estimate, the synchronised form by the
        # biased one: 1 % apart on a 2 x 2 map of 32 images. With this switch of Keras' (private;
        # TensorFlow is pinned) one replica and many keep the same statistics.
        layer._bessels_correction_test_only = False
    return len(found)


def batch_norm_layers(model: tf.keras.layers.Layer) -> list[tf.keras.layers.BatchNormalization]:
    """Every BatchNormalization below `model`, the layers inside layers included."""
    modules = [model, *model.submodules]
    return [m for m in modules if isinstance(m, tf.keras.layers.BatchNormalization)]


def plain_copy(model: tf.keras.Model) -> tf.keras.Model:
    """A copy with the same weights in float32 arithmetic, with plain batch normalisation.

    Raises:
      UserError: the model cannot be rebuilt from its get_config().
    """
    try:
        copy = type(model).from_config(_plain(model.get_config()))
    except (NotImplementedError, TypeError) as error:
        raise UserError(
            f"model {model.name!r} cannot be copied, because it or one of its layers has no "
            f"working get_config(): {error}"
        ) from error
    copy.set_weights(model.get_weights())
    synchronize_batch_norm(copy, False)
    return copy


def _plain(config: Any) -> Any:
    """The config with every mixed-precision policy replaced by float32."""
    if isinstance(config, (list, tuple)):
        return type(config)(_plain(item) for item in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "Policy":
        return _PLAIN
    plain = {key: _plain(value) for key, value in config.items()}
    if str(plain.get("dtype", "")).startswith("mixed_"):
        plain["dtype"] = _PLAIN
    return plain
