"""The private names of Keras 2 that this package relies on. Each has a test that fails if it stops
working: several would otherwise fail silently.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.stack import keras

# The attributes that `switch_batch_norm` sets.
BATCH_NORM_SWITCHES = ("synchronized", "fused", "_bessels_correction_test_only")


def switch_batch_norm(layer: keras.layers.BatchNormalization, synchronized: bool) -> None:
    """Makes a layer compute statistics over all replicas, or per replica with the fused kernel.

    Functions traced earlier do not change.
    """
    layer.synchronized = synchronized
    layer.fused = False if synchronized else _fused(layer)
    # The fused kernel updates the moving variance with the unbiased estimate, the synchronised
    # form with the biased one: 1 % apart on a 2 x 2 map of 32 images. With this switch one replica
    # and many keep the same statistics.
    layer._bessels_correction_test_only = False


def _fused(layer: keras.layers.BatchNormalization) -> bool | None:
    """Whether Keras has a fused kernel for the layer: only if the layer's inputs are images.

    None if the layer was never built (keras-cv creates some that it does not use): it then decides
    when it is built.
    """
    if not layer._fused_can_be_used():
        return False
    if layer.input_spec is None:
        return None
    data_format = {(1,): "NCHW", (3,): "NHWC"}.get(tuple(layer.axis))
    if layer.input_spec.ndim != 4 or data_format is None:
        return False
    layer._data_format = data_format  # Keras leaves it out of layers built as synchronised.
    return True


def make_random_state_readable(layer: keras.layers.Layer) -> None:
    """Gives one dropout or noise layer a generator whose state can be read and set.

    Keras' default uses random operations that cannot be replayed. Does nothing to other layers.
    """
    generator = getattr(layer, "_random_generator", None)
    if generator is not None:
        if generator._rng_type == "legacy_stateful":
            generator = type(generator)(generator._seed, rng_type="stateful")
            layer._random_generator = generator
        generator._maybe_init()


def random_state(layer: keras.layers.Layer) -> tf.Variable | None:
    """The state of a layer's random generator, once it is readable; None if it has none."""
    generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
    return None if generator is None else generator.state


def has_inner_layers(layer: keras.layers.Layer) -> bool:
    """Whether a layer is made of other layers."""
    return any(True for _ in layer._flatten_layers(include_self=False))


def weight_penalties(layer: keras.layers.Layer) -> list[Callable[[], tf.Tensor]]:
    """Functions that compute the regularisation losses of the layer's weights.

    `layer.losses` would add those of the inputs that the layer was last called with.
    """
    return list(layer._callable_losses)


def is_functional(model: keras.layers.Layer) -> bool:
    """Whether a model's graph of layers defines it, as for functional and Sequential models."""
    functional = keras.Sequential.__base__
    own = (functional.call, keras.Sequential.call)
    return getattr(model, "_is_graph_network", False) and type(model).call in own
