"""The projection head: the reference's layout, saving and loading."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.heads import ProjectionHead


def built(**options):
    head = ProjectionHead(**options)
    head.build([None, 12])
    return head


def test_layout():
    head = built(num_layers=3, out_dim=5)
    assert [layer.kernel.shape.as_list() for layer in head.dense] == [[12, 12], [12, 12], [12, 5]]
    assert all(layer.bias is None for layer in head.dense)
    assert [norm.beta is not None for norm in head.norms] == [True, True, False]
    assert len(head.trainable_variables) == 3 + 3 + 2
    assert 0.005 < np.std(head.dense[0].kernel) < 0.015


@pytest.mark.parametrize("training", [False, True])
def test_computes_what_it_says(training):
    rng = np.random.default_rng(0)
    head = built(num_layers=2, out_dim=5, hidden_dim=7)
    head.set_weights([rng.random(w.shape).astype(np.float32) + 0.1 for w in head.get_weights()])
    h = rng.normal(size=(9, 12)).astype(np.float32)
    x = h.astype(np.float64)
    for i, (dense, norm) in enumerate(zip(head.dense, head.norms)):
        x = x @ dense.kernel.numpy()
        mean = x.mean(axis=0) if training else norm.moving_mean.numpy()
        variance = x.var(axis=0) if training else norm.moving_variance.numpy()
        x = (x - mean) / np.sqrt(variance + 1e-5) * norm.gamma.numpy()
        if i == 0:
            x = np.maximum(x + norm.beta.numpy(), 0)
    np.testing.assert_allclose(head(h, training=training), x, rtol=1e-4, atol=1e-4)


def test_number_of_layers():
    h = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    np.testing.assert_array_equal(built(num_layers=0)(h), h)
    assert built(num_layers=1, out_dim=3)(h).shape == (4, 3)
    head = built(num_layers=3, out_dim=3)
    np.testing.assert_array_equal(head(h, num_layers=0), h)
    middle = head(h, num_layers=1).numpy()  # SimCLRv2 fine-tunes from here.
    assert middle.shape == (4, 12) and middle.min() == 0.0


def test_round_trip(tmp_path):
    inputs = tf.keras.Input([12])
    model = tf.keras.Model(inputs, ProjectionHead(2, 5, 7)(inputs))
    model.save(tmp_path / "head.keras")
    again = tf.keras.models.load_model(tmp_path / "head.keras", safe_mode=True)
    assert again.layers[-1].get_config() == model.layers[-1].get_config()
    h = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    np.testing.assert_array_equal(again(h), model(h))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_z_is_float32_under_mixed_precision(policy):
    head = ProjectionHead(2, 5, dtype=policy)
    assert head(np.ones([4, 12], np.float32)).dtype == tf.float32
    assert {layer.dtype_policy.name for layer in head.dense + head.norms} == {policy}
    again = ProjectionHead.from_config(head.get_config())
    assert (again.num_layers, again.out_dim, again.dtype_policy.name) == (2, 5, policy)


@pytest.mark.parametrize("stop", [-1, 3, 1.5])
def test_a_layer_the_head_does_not_have_is_refused(stop):
    message = f"num_layers must be 0 to 2, the layers of this head; received {stop}"
    with pytest.raises(UserError, match=message):
        built(num_layers=2).call(np.ones([4, 12], np.float32), num_layers=stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 2.5}, "num_layers must be >= 0; received 2.5"),
        ({"out_dim": None}, "out_dim must be positive; received None"),
        ({"num_layers": -1}, "num_layers must be >= 0; received -1"),
        ({"out_dim": 0}, "out_dim must be positive; received 0"),
        ({"hidden_dim": 0}, "hidden_dim must be positive; received 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(UserError, match=message):
        ProjectionHead(**options)
