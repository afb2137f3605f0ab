"""Batch normalisation: synchronised across replicas or not, and plain copies of a model.

Keras' own layer does both: on one replica the fused kernel is faster; across replicas the
statistics must be those of the global batch (paper, section 2.2). The layers are switched in place,
so this works for every encoder, also for keras-cv's and users' own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_simclr.errors import UserError, brief
from tf_simclr.models.keras_internals import BATCH_NORM_SWITCHES, switch_batch_norm
from tf_simclr.stack import keras

_PLAIN = "float32"


def synchronize_batch_norm(model: keras.layers.Layer, enabled: bool = True) -> int:
    """Switches every BatchNormalization below `model`, however deep, in place.

    Args:
      model: a model or layer. Functions traced earlier do not change.
      enabled: True: statistics over all replicas; False: per replica, with the fused kernel.

    Returns:
      The number of such layers.
    """
    found = batch_norm_layers(model)
    for layer in found:
        switch_batch_norm(layer, enabled)
    return len(found)


def batch_norm_layers(model: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Every BatchNormalization below `model`, including layers inside layers."""
    return [x for x in layers_of(model) if isinstance(x, keras.layers.BatchNormalization)]


def layers_of(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """`model` and every layer below it, parents before their children."""
    modules = (model, *model.submodules)
    return [module for module in modules if isinstance(module, keras.layers.Layer)]


@contextlib.contextmanager
def plain_form(model: keras.Model) -> Iterator[None]:
    """Within a `with` block, gives the model itself plain batch normalisation and unfreezes it.

    With every layer trainable, `model.weights` has the same order for every copy of a model.
    """
    norms = [
        (norm, {k: getattr(norm, k) for k in BATCH_NORM_SWITCHES})
        for norm in batch_norm_layers(model)
    ]
    layers = layers_of(model)
    trainable = [layer.trainable for layer in layers]
    try:
        synchronize_batch_norm(model, False)
        model.trainable = True
        yield
    finally:
        for norm, switches in norms:
            for name, value in switches.items():
                setattr(norm, name, value)
        # Parents come first: setting `trainable` sets it for all layers below.
        for layer, value in zip(layers, trainable):
            layer.trainable = value


def plain_copy(model: keras.Model) -> keras.Model:
    """A copy with the same weights in float32 arithmetic, with plain batch normalisation.

    The copy is built from the model's config; the layers' classes need not be registered with
    Keras. Whether the config describes the model in full is not checked here.

    Raises:
      UserError: the model cannot be rebuilt from its get_config().
    """
    policy = keras.mixed_precision.global_policy()
    # Layers created by other layers (keras-cv's blocks) use the global policy, not a config.
    keras.mixed_precision.set_global_policy(_PLAIN)
    try:
        with keras.saving.custom_object_scope(_classes(model)):
            copy = type(model).from_config(_plain(model.get_config()))
        if not copy.built:
            copy(keras.Input(batch_shape=model.get_build_config()["input_shape"]))
        with plain_form(model), plain_form(copy):
            copy.set_weights(model.get_weights())
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:  # get_config() and constructors can fail in any way.
        raise UserError(
            f"model {model.name!r} cannot be copied, because it or one of its layers has no "
            f"working get_config(): {brief(error)}"
        ) from error
    finally:
        keras.mixed_precision.set_global_policy(policy)
    synchronize_batch_norm(copy, False)
    return copy


def _classes(model) -> dict[str, type]:
    """{name: class} of a model's layers whose classes Keras cannot find by itself."""
    classes = {type(layer) for layer in layers_of(model)}
    return {kind.__name__: kind for kind in classes if not _is_found(kind)}


def _is_found(layer_class: type) -> bool:
    if keras.saving.get_registered_name(layer_class) != layer_class.__name__:
        return True  # It is registered under a package and a name.
    module = layer_class.__module__
    # Keras does not find the layers of its own applications, such as ConvNeXt's.
    return module.startswith(("keras.", "tf_keras.")) and ".src.applications." not in module


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
