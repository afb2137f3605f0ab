"""Computing h of a data set: in order, with and without padding, on any number of replicas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.features import small_encoder
from tests.replicas import mirrored
from tf_simclr import features
from tf_simclr.data.sources import array_source
from tf_simclr.models.batch_norm import plain_copy

N, SIZE = 23, 8


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [N, SIZE, SIZE, 1], np.uint8)
    return array_source(images, np.arange(N) % 3)


def build():
    encoder = small_encoder()
    rng = np.random.default_rng(1)
    # Moving statistics that differ from those of any batch.
    encoder.set_weights([rng.uniform(0.01, 0.1, w.shape) for w in encoder.get_weights()])
    return encoder


@pytest.mark.parametrize("batch_size", [1, 5, 8, 100])
def test_equals_the_encoder_on_all_images_at_once(batch_size, source):
    encoder = build()
    h = features.represent(encoder, source, image_size=SIZE, batch_size=batch_size)
    views = next(iter(features.computing.eval_dataset(source, batch_size=N, image_size=SIZE)))
    np.testing.assert_allclose(h, encoder(views, training=False), rtol=1e-5, atol=1e-6)
    assert h.shape == (N, 12) and h.dtype == np.float32


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize("batch_size", [4, 10, 100])
def test_replicas_share_the_work_and_change_no_bit(replicas, batch_size, source, monkeypatch):
    encoder, sizes = build(), {"image_size": SIZE, "batch_size": batch_size}
    one = features.represent(encoder, source, **sizes)
    strategy = mirrored(replicas)
    with strategy.scope():
        encoder = plain_copy(encoder)
    calls = []
    run = strategy.run
    monkeypatch.setattr(strategy, "run", lambda *a, **k: calls.append(1) or run(*a, **k))
    groups = []
    give = strategy.experimental_distribute_values_from_function
    monkeypatch.setattr(
        strategy,
        "experimental_distribute_values_from_function",
        lambda f: groups.append(1) or give(f),
    )
    np.testing.assert_array_equal(
        features.represent(encoder, source, strategy=strategy, **sizes), one
    )
    assert len(calls) == 1  # Traced once, for all batches.
    batches = -(-N // batch_size)
    assert len(groups) == -(-batches // replicas)  # Each group has a batch for every replica.


@pytest.mark.parametrize(
    ("images", "batch", "size"), [(1297, 256, 217), (256, 256, 256), (257, 256, 129), (3, 256, 3)]
)
def test_batches_are_even(images, batch, size):
    assert features.even_size(images, batch) == size


def test_no_image_reaches_into_another_of_the_padded_batch(source):
    encoder, sizes = build(), {"image_size": SIZE, "batch_size": 8}
    h = features.represent(encoder, source, **sizes)
    first = features.represent(encoder, source.take(np.arange(8)), **sizes)
    np.testing.assert_array_equal(h[:8], first)
    assert not tf.reduce_any(tf.math.is_nan(h))
