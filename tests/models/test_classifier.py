"""Fine-tuning: what is trained, and that frozen layers do not change."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.classifier import classifier
from tf_simclr.models.encoders import build_encoder


def small_encoder():
    return build_encoder("resnet10", image_size=16, width_multiplier=0.125)


@pytest.mark.parametrize("after", [-1, 0, 1, 3, 4])
def test_what_comes_after_the_block_is_trained_and_nothing_else(after):
    encoder = small_encoder()
    model = classifier(encoder, 3, after)
    before = {v.name: v.numpy() for v in model.variables}
    model.compile(
        tf.keras.optimizers.SGD(0.1),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images = np.random.default_rng(0).random([6, 16, 16, 3]).astype(np.float32)
    for _ in range(3):  # A block's last gamma starts at 0: its convolutions change a step later.
        model.train_on_batch(images, np.arange(6) % 3)
    moved = {v.name for v in model.variables if not np.array_equal(before[v.name], v.numpy())}
    trainable = {v.name for v in model.trainable_variables}
    assert trainable <= moved
    if after == 4:
        assert moved == {v.name for v in model.get_layer("classifier").variables}
    elif after == -1:
        assert len(moved) == len(model.variables)
    else:
        groups = [encoder.get_layer(f"block_group{i}") for i in range(1, 5)]
        assert len(groups) == 4
        frozen = {v.name for v in model.variables} - moved
        assert frozen == {v.name for v in model.variables} - {
            v.name for layer in model.layers if layer.trainable for v in layer.variables
        }


def test_logits_are_float32_and_start_small():
    model = classifier(small_encoder(), 7)
    logits = model(np.ones([2, 16, 16, 3], np.float32))
    assert logits.shape == (2, 7) and logits.dtype == tf.float32


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="num_classes must be at least 2; received 1"):
        classifier(small_encoder(), 1)
    inputs = tf.keras.Input([8, 8, 3])
    plain = tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(inputs), name="mine")
    with pytest.raises(UserError, match="'mine' has none"):
        classifier(plain, 3, 2)
