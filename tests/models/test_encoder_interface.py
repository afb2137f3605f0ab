"""Encoders of every kind: those that SimCLR trains, and the errors for the others."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.encoder_interface import (
    build_head,
    encoder_shapes,
    interface_of,
    is_functional,
)
from tf_simclr.models.encoders import build_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR

layers = tf.keras.layers
A, B = np.random.default_rng(0).random([2, 8, 6, 6, 3]).astype(np.float32)


@tf.keras.utils.register_keras_serializable(package="tests")
class Subclassed(tf.keras.Model):
    """A common style: `call` without `training`, which Keras passes on by itself."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.convolution = layers.Conv2D(width, 3)
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.pool = layers.GlobalAveragePooling2D()

    def call(self, images):
        return self.pool(tf.nn.relu(self.norm(self.convolution(images))))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class PlainLayer(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", [input_shape[-1], 4])

    def call(self, images):
        return tf.reduce_mean(images, axis=[1, 2]) @ self.kernel


class TwoOutputs(Subclassed):
    def call(self, images):
        h = super().call(images)
        return {"h": h, "also": h}


def called(layer, images=A):
    layer(images)
    return layer


def sequential():
    return tf.keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])


def functional(inputs=None, outputs=None):
    inputs = layers.Input([6, 6, 3]) if inputs is None else inputs
    outputs = outputs or layers.GlobalAveragePooling2D()
    return tf.keras.Model(inputs, outputs(inputs), name="mine")


def joined(inputs):
    return layers.Concatenate()([layers.Flatten()(x) for x in inputs])


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [
        (lambda: called(Subclassed()), 4),
        (lambda: called(PlainLayer()), 4),
        (lambda: called(sequential()), 4),
        (lambda: called(layers.GlobalAveragePooling2D()), 3),
        (functional, 3),
    ],
    ids=["subclassed", "layer", "sequential", "keras layer", "functional"],
)
def test_any_kind_of_encoder(encoder, channels):
    images, h = interface_of(encoder())
    sides = [6, 6] if encoder is functional else [None, None]
    assert images.shape.as_list() == [None, *sides, 3] and images.dtype == tf.float32
    assert h == (None, channels)


def test_an_encoder_of_any_size():
    images, h = interface_of(functional(layers.Input([None, None, 3])))
    assert images.shape.as_list() == [None, None, None, 3] and h == (None, 3)


def with_flatten():
    return tf.keras.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(4)])


class Wrapped(tf.keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, images):
        return self.inner(images)


@pytest.mark.parametrize("encoder", [with_flatten, lambda: Wrapped(with_flatten())])
def test_an_encoder_of_the_size_that_it_was_called_with(encoder):
    encoder = called(encoder())
    before = encoder_shapes(encoder)
    assert interface_of(encoder)[0].shape.as_list() == [None, 6, 6, 3]
    assert encoder_shapes(encoder) == before  # Trying other sizes changes nothing.
    model = SimCLR(encoder, ProjectionHead(1, 4))
    model.compile("sgd")
    with pytest.raises(UserError, match=r"\(N, 6, 6, 3\) that the encoder takes"):
        model.fit(A[:, :4, :4], B[:, :4, :4], verbose=0)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 4}])
@pytest.mark.parametrize("encoder", [Subclassed, PlainLayer, sequential])
def test_training_at_another_size_than_the_first_call(encoder, options, tmp_path):
    larger = np.random.default_rng(1).random([2, 32, 32, 3]).astype(np.float32)
    model = SimCLR(called(encoder(), larger), ProjectionHead(1, 4), **options)
    model.compile(tf.keras.optimizers.SGD(0.1))
    assert np.isfinite(model.fit(A, B, batch_size=8, verbose=0).history["loss"]).all()
    model.save(tmp_path / "model", save_format="tf")
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    for images in (A, larger):
        (h,) = served(tf.constant(images)).values()
        np.testing.assert_allclose(h, model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 4}])
@pytest.mark.parametrize("encoder", [Subclassed, PlainLayer, sequential])
def test_they_train(encoder, options):
    model = SimCLR(called(encoder()), ProjectionHead(1, 4), **options)
    model.compile(tf.keras.optimizers.SGD(0.1))
    before = [v.numpy() for v in model.encoder.variables]
    model.fit(A, B, batch_size=8, verbose=0)
    for old, variable in zip(before, model.encoder.variables):
        # A bias may stay: batch normalisation, in the encoder or the head, removes its effect.
        assert "bias" in variable.name or not np.array_equal(old, variable), variable.name


def test_a_subclassed_encoder_comes_back_from_a_keras_file(tmp_path):
    model = SimCLR(called(Subclassed(5)), ProjectionHead(1, 4))
    model.compile("adam")
    model.fit(A, B, verbose=0)
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(A, verbose=0), model.predict(A, verbose=0))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda: None, "must be a tf.keras model or layer.*received None"),
        (lambda: "resnet50", "must be a tf.keras model or layer.*received 'resnet50'"),
        (lambda: tf.keras.Model, "must be a tf.keras model or layer"),
        (lambda: layers.Input([6, 6, 3]), "must be a tf.keras model or layer"),
        (Subclassed, "has not been built.*Call it once on a batch of zeros"),
        (sequential, "has not been built.*Call it once on a batch of zeros"),
        (PlainLayer, "has not been built.*Call it once on a batch of zeros"),
        (lambda: called(TwoOutputs()), "must have one output.*has {'h'"),
        (lambda: functional(outputs=lambda x: [x, x]), "must have one output.*'mine' has"),
        (lambda: functional(outputs=lambda x: {"h": x}), "must have one output.*'mine' has"),
        (lambda: called(layers.ReLU()), r"output shape is \(None, 6, 6, 3\)"),
        (lambda: functional(outputs=layers.ReLU()), r"output shape is \(None, 6, 6, 3\)"),
        (
            lambda: functional([layers.Input([6, 6, 3]), layers.Input([2])], joined),
            r"must have one input.*takes \(None, 6, 6, 3\), \(None, 2\)",
        ),
        (lambda: functional(layers.Input([9]), layers.Dense(2)), r"takes \(None, 9\)"),
        (lambda: functional(layers.Input([6, 6, 3], dtype="uint8")), "input of 'mine' is uint8"),
        (
            lambda: tf.keras.Sequential(
                [layers.Input([6, 6, 3]), layers.Rescaling(1 / 255), layers.Flatten()]
            ),
            "scales its input by 0.00392",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(encoder, message):
    with pytest.raises(UserError, match=message):
        SimCLR(encoder())


def test_scaling_that_cancels_out_is_fine():
    steps = [layers.Rescaling(255.0), layers.Rescaling(1 / 255), layers.Flatten()]
    interface_of(tf.keras.Sequential([layers.Input([6, 6, 3]), *steps]))


def residual(images, scale=0.2):
    x = layers.Conv2D(3, 3, padding="same")(images)
    for _ in range(2):
        x = x + layers.Rescaling(scale)(layers.Conv2D(3, 3, padding="same")(x))
    return layers.GlobalAveragePooling2D()(x)


def applied(*steps):
    """A functional model that ends with a nested one of residual branches."""
    x = images = layers.Input([6, 6, 3])
    for step in [*steps, functional(layers.Input([6, 6, 3]), residual)]:
        x = step(x)
    return tf.keras.Model(images, x, name="outer")


def test_scaling_of_features_is_fine():
    interface_of(functional(outputs=residual))
    interface_of(functional(outputs=lambda x: residual(x, 1 / 255)))
    interface_of(applied())
    interface_of(applied(layers.RandomFlip(), layers.BatchNormalization(), layers.Rescaling(0.01)))


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: applied(layers.Rescaling(1 / 127.5, -1)),
        lambda: applied(layers.RandomFlip(), layers.Rescaling(1 / 255), layers.Conv2D(3, 1)),
        lambda: applied(tf.keras.Sequential([layers.Rescaling(1 / 255)])),
        lambda: called(tf.keras.Sequential([layers.Rescaling(1 / 255), *sequential().layers])),
    ],
)
def test_scaling_of_images_is_refused(encoder):
    with pytest.raises(UserError, match=r"scales its input.*or put .*Rescaling\(255.0\) before"):
        interface_of(encoder())


def test_the_advice_about_scaling_works():
    inner = applied(layers.Rescaling(1 / 255))
    interface_of(tf.keras.Sequential([layers.Input([6, 6, 3]), layers.Rescaling(255.0), inner]))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda: 128, "projection_head must be a tf.keras layer.*received 128"),
        (lambda: layers.Reshape([2, 2]), r"one tensor z \[N, D\]; its output is \(None, 2, 2\)"),
        (lambda: called(layers.Dense(3), A[:, 0, 0]), r"cannot be called on \(None, 4\)"),
    ],
)
def test_heads_that_do_not_fit_are_refused(head, message):
    with pytest.raises(UserError, match=message):
        build_head(head(), (None, 4))


@pytest.mark.parametrize("called_on", [(2, 8, 8, 3), (1, 5, 9, 3)])
def test_shapes_of_any_encoder(called_on):
    class Mean(tf.keras.Model):
        def call(self, images):
            return tf.reduce_mean(images, [1, 2])

    model, functional = Mean(), build_encoder("resnet18", width_multiplier=0.125)
    model(np.ones(called_on, np.float32))
    assert encoder_shapes(model) == ((None, *called_on[1:]), (None, 3))
    assert encoder_shapes(functional) == ((None, None, None, 3), (None, 64))
    assert is_functional(functional) and not is_functional(model)
