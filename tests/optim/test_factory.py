"""Which variables have weight decay, in every optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.encoders import build_encoder
from tf_simclr.optim.factory import OPTIMIZERS, build_optimizer, decay_sets


def test_decay_sets_partition_by_structure():
    encoder = build_encoder("resnet18", image_size=16, width_multiplier=0.125)
    head = tf.keras.layers.Dense(3, name="debias")  # A name that a substring search would exclude.
    head.build([None, 64])
    variables = encoder.trainable_variables + head.trainable_variables
    decayed, spared = decay_sets(variables)
    assert {id(v) for v in decayed} | {id(v) for v in spared} == {id(v) for v in variables}
    assert not {id(v) for v in decayed} & {id(v) for v in spared}
    kernels = [
        layer.kernel
        for layer in [*encoder.layers, head]
        if isinstance(layer, (tf.keras.layers.Conv2D, tf.keras.layers.Dense))
    ]
    assert {id(v) for v in decayed} == {id(v) for v in kernels}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_gradients_move_only_what_decays(name):
    kernel = tf.Variable(tf.ones([3, 2]), name="layer/kernel")
    bias = tf.Variable(tf.ones([2]), name="layer/bias")
    optimizer = build_optimizer(name, 0.1, variables=[kernel, bias], weight_decay=0.1)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in (kernel, bias)])
    assert (kernel.numpy() < 1.0).all()
    np.testing.assert_array_equal(bias.numpy(), np.ones(2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_decay_zero_gradients_move_nothing(name):
    kernel = tf.Variable(tf.ones([3, 2]), name="layer/kernel")
    optimizer = build_optimizer(name, 0.1, variables=[kernel])
    optimizer.apply_gradients([(tf.zeros_like(kernel), kernel)])
    np.testing.assert_array_equal(kernel.numpy(), np.ones([3, 2]))


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="unknown optimizer 'larrs': did you mean 'lars'"):
        build_optimizer("larrs", 0.1, variables=[])
    with pytest.raises(UserError, match="weight_decay must be >= 0; received -1"):
        build_optimizer("lars", 0.1, variables=[], weight_decay=-1)
