"""Every kind of encoder that can be trained is exported, or is refused before it is trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import mirrored
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.errors import UserError
from tf_simclr.export import check_exportable, export_encoder, load_encoder
from tf_simclr.models.batch_norm import batch_norm_layers, plain_copy, synchronize_batch_norm
from tf_simclr.models.encoders import build_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR

layers, applications = tf.keras.layers, tf.keras.applications
SIDE = 16
RNG = np.random.default_rng(0)
IMAGES = RNG.random([4, SIDE, SIDE, 3]).astype(np.float32)


class Scale(layers.Layer):
    """Multiplies by a factor from its config and by a weight; not registered with Keras."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.weight = self.add_weight(name="weight", shape=[shape[-1]], initializer="ones")

    def call(self, x):
        return x * self.weight * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@tf.keras.saving.register_keras_serializable(package="test_exportable")
class RegisteredScale(Scale):
    """The same, registered."""


class Forgetful(Scale):
    """Its config leaves the factor out."""

    def get_config(self):
        config = super().get_config()
        del config["factor"]
        return config


class Unbuildable(layers.Layer):
    """It has no config at all."""

    def __init__(self, secret):
        super().__init__()
        self.conv = layers.Conv2D(4, 3)

    def call(self, x):
        return self.conv(x) * 2.0


class Subclassed(tf.keras.Model):
    """A model that is not functional."""

    def __init__(self, top=layers.GlobalAveragePooling2D):
        super().__init__()
        self.conv, self.norm, self.top = layers.Conv2D(4, 3), layers.BatchNormalization(), top()

    def call(self, images, training=False):
        return self.top(tf.nn.relu(self.norm(self.conv(images), training=training)))


class AsLayer(layers.Layer):
    """A layer of layers, not a model."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = layers.Conv2D(4, 3), layers.BatchNormalization()

    def call(self, images, training=False):
        return tf.reduce_mean(self.norm(self.conv(images), training=training), [1, 2])


class OneSize(Subclassed):
    """It takes images of one size only."""

    def __init__(self, secret):
        super().__init__(layers.Flatten)
        self.dense = layers.Dense(5)

    def call(self, images, training=False):
        return self.dense(super().call(images, training=training))


def block(x):
    return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x)))


def functional(body, side=None, top=layers.GlobalAveragePooling2D):
    images = tf.keras.Input([side, side, 3])
    return tf.keras.Model(images, top()(body(images)))


def called(model):
    model(IMAGES)
    return model


def nested():
    images = tf.keras.Input([None, None, 3])
    inner = tf.keras.Model(images, block(block(images) * 2.0 - 1.0))
    return functional(lambda x: inner(x) + 1.0)


def sequential(*first):
    parts = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.GlobalAveragePooling2D()]
    return tf.keras.Sequential([*first, *parts])


def penalised(x):
    return block(layers.Conv2D(4, 3, kernel_regularizer="l2", activity_regularizer="l2")(x))


def warped(x):
    return tf.pad(tf.image.resize(x, [20, 20]), [[0, 0], [1, 1], [1, 1], [0, 0]])


def augmented(x):
    return layers.RandomRotation(0.1)(layers.RandomCrop(12, 12)(layers.RandomFlip()(x)))


KERAS, ENDPOINTS = "keras", "endpoints"
KERAS_FILE = "encoder.keras"
# Those with layers of Keras 3 only, which are exported to HDF5.
IN_KERAS_3 = ("rescaling", "penalties", "sequential", "built by a call")
# Name: (how to make it, what an export leaves out besides HDF5).
ENCODERS = {
    "affine": (lambda: functional(lambda x: block(x * 2.0 - 1.0)), []),
    "caffe": (lambda: functional(lambda x: block(prepared(applications.resnet50, x))), [KERAS]),
    "tf mode": (lambda: functional(lambda x: block(prepared(applications.mobilenet, x))), []),
    "torch mode": (lambda: functional(lambda x: block(prepared(applications.densenet, x))), []),
    "residual": (lambda: functional(lambda x: x + layers.Conv2D(3, 1)(block(x))), []),
    "resize and pad": (lambda: functional(lambda x: block(warped(x))), []),
    "rescaling": (lambda: functional(lambda x: block(layers.Rescaling(2.0, -1.0)(x))), []),
    "normalization": (
        lambda: functional(lambda x: block(layers.Normalization(mean=0.5, variance=2.0)(x))),
        [],
    ),
    "augmentation": (lambda: functional(lambda x: block(augmented(x))), []),
    "dropout": (lambda: functional(lambda x: layers.GaussianNoise(1.0)(block(x))), []),
    "lambda": (lambda: functional(lambda x: block(layers.Lambda(lambda y: y * 3.0)(x))), [KERAS]),
    "activation": (lambda: functional(lambda x: block(layers.Activation(triple)(x))), [KERAS]),
    "unregistered": (lambda: functional(lambda x: block(Scale(3.0)(x))), [KERAS]),
    "registered": (lambda: functional(lambda x: block(RegisteredScale(3.0)(x))), []),
    "forgetful": (lambda: functional(lambda x: block(Forgetful(3.0)(x))), [KERAS]),
    "no config": (lambda: functional(lambda x: block(Unbuildable(object())(x))), [KERAS]),
    "penalties": (lambda: functional(penalised), []),
    "subclassed": (lambda: called(Subclassed()), [KERAS, ENDPOINTS]),
    "a layer": (lambda: called(AsLayer()), [KERAS, ENDPOINTS]),
    "one size": (lambda: called(OneSize(object())), [KERAS, ENDPOINTS]),
    "sequential": (lambda: sequential(layers.InputLayer([None, None, 3])), []),
    "built by a call": (lambda: called(sequential()), []),
    "nested": (nested, []),
}


def left_out_of(name):
    return [*ENCODERS[name][1], *([] if name in IN_KERAS_3 else ["h5"])]


def prepared(module, x):
    return module.preprocess_input(x * 255.0)


def triple(x):
    return x * 3.0


def moved(encoder):
    """Weights and statistics that are not those of a fresh encoder."""
    encoder.set_weights([w + RNG.random(w.shape) for w in encoder.get_weights()])
    return encoder


FRESH = """
import os, sys
sys.modules["tf_simclr"] = None
import numpy as np, tensorflow as tf, tensorflow_hub as hub

images, expected = np.load("images.npy"), np.load("expected.npz")
for name in expected:
    close = lambda a: np.testing.assert_allclose(a, expected[name], atol=1e-5, rtol=1e-5)
    loaded = tf.saved_model.load(name)
    close(loaded(images))
    close(loaded.signatures["serving_default"](tf.constant(images))["embedding"])
    if "endpoints" in loaded.signatures:
        close(loaded.signatures["endpoints"](tf.constant(images))["final_avg_pool"])
    for loss in loaded.regularization_losses:
        assert float(loss()) > 0
    layer = hub.KerasLayer(name, trainable=True)
    before = [v.numpy() for v in layer.variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(images, training=True) ** 2)
    gradients = tape.gradient(loss, layer.trainable_variables)
    tf.keras.optimizers.SGD(1.0).apply_gradients(zip(gradients, layer.trainable_variables))
    still = [v.name for a, v in zip(before, layer.variables) if np.array_equal(a, v.numpy())]
    assert len(layer.trainable_variables) < len(layer.variables), name
    assert not still, (name, still)
    if os.path.exists(name + "/encoder.keras") and name != "registered":
        keras = tf.keras.models.load_model(name + "/encoder.keras", safe_mode=True)
        close(keras(images, training=False))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with an export of each encoder; what `check_exportable` had said of each."""
    folder, expected, said = tmp_path_factory.mktemp("exports"), {}, {}
    for name, (make, _) in ENCODERS.items():
        encoder = make()
        said[name] = check_exportable(encoder, SIDE)
        moved(encoder)
        expected[name] = encoder(IMAGES, training=False)
        export_encoder(encoder, folder / name, image_size=SIDE)
    np.save(folder / "images.npy", IMAGES)
    np.savez(folder / "expected.npz", **expected)
    return folder, said


def test_every_export_runs_and_trains_in_a_process_without_us(exports):
    folder, _ = exports
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        cwd=folder,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_left_out_was_known_before_training(name, exports):
    folder, said = exports
    left_out = left_out_of(name)
    facts = json.loads((folder / name / "card.json").read_text())
    assert sorted(said[name]) == sorted(facts["left_out"]) == sorted(left_out)
    assert all(facts["left_out"].values())  # The reasons.
    assert (folder / name / KERAS_FILE).exists() == (KERAS not in left_out)
    assert (folder / name / "encoder.h5").exists() == ("h5" not in left_out)
    assert (ENDPOINTS in facts["signatures"]) == (ENDPOINTS not in left_out)
    card = (folder / name / "card.md").read_text()
    assert (f'load_model("this/folder/{KERAS_FILE}")' in card) == (KERAS not in left_out)
    assert all(difference < 1e-3 for difference in facts["differences"].values())
    assert set(facts["differences"]) == {"saved_model", KERAS, "h5"} - set(left_out)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_keras_file_loads_or_its_absence_is_explained(name, exports):
    folder, _ = exports
    if KERAS in ENCODERS[name][1]:
        with pytest.raises(UserError, match="SavedModel but no encoder.keras.*load_encoder"):
            load_encoder_from(folder / name)
    else:
        h = load_encoder_from(folder / name)(IMAGES, training=False)
        expected = np.load(folder / "expected.npz")[name]
        np.testing.assert_allclose(h, expected, atol=1e-5, rtol=1e-5)


def test_random_layers_draw_anew_where_they_are_loaded(exports):
    layer = load_encoder(exports[0] / "augmentation")
    first, second = (layer(IMAGES, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-4
    again = layer(IMAGES, training=False).numpy()
    np.testing.assert_array_equal(layer(IMAGES, training=False), again)


def test_an_encoder_of_one_size_says_so(exports):
    loaded = tf.saved_model.load(str(exports[0] / "one size"))
    with pytest.raises(ValueError):
        loaded(np.zeros([1, SIDE + 2, SIDE + 2, 3], np.float32))
    pixels = RNG.integers(0, 256, [2, 40, 30, 3], np.uint8)
    assert loaded.signatures["uint8"](tf.constant(pixels))["embedding"].shape == (2, 5)


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float32", "float64"),
        ("float32", "uint8"),
        ("mixed_float16", "float32"),
        ("mixed_float16", "uint8"),
        ("mixed_bfloat16", "float32"),
        ("mixed_bfloat16", "float16"),
    ],
    indirect=["policy"],
)
def test_the_layer_computes_in_float32_under_any_policy(policy, dtype, exports):
    folder, _ = exports
    layer = load_encoder(folder / "affine")
    images = (IMAGES * (255 if dtype == "uint8" else 1)).astype(dtype)
    unit = images.astype(np.float32) / np.float32(255 if dtype == "uint8" else 1)
    expected = tf.saved_model.load(str(folder / "affine"))(unit)
    h = layer(images)
    assert h.dtype == tf.float32
    np.testing.assert_allclose(h, expected, atol=1e-5, rtol=1e-5)
    given = tf.keras.Input([SIDE, SIDE, 3], dtype=dtype)
    model = tf.keras.Model(given, layer(given))
    np.testing.assert_allclose(model(images, training=False), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_images_of_other_types_are_refused(dtype, exports):
    layer = load_encoder(exports[0] / "affine")
    with pytest.raises(UserError, match=rf"uint8 in \[0, 255\] or floats in .*received {dtype}"):
        layer(IMAGES.astype(dtype))


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 2}])
def test_the_layer_is_trained_with_simclr(options, exports):
    layer = load_encoder(exports[0] / "affine")
    assert layer.built
    model = SimCLR(layer, ProjectionHead(1, 4), **options)
    model.compile(tf.keras.optimizers.SGD(0.1))
    before = model.get_weights()
    assert np.isfinite(
        model.fit(IMAGES, IMAGES[:, ::-1], batch_size=4, verbose=0).history["loss"]
    ).all()
    after = layer.get_weights()
    assert any(np.any(old != new) for old, new in zip(before, after))
    model.set_weights(before)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_a_model_around_the_layer_is_saved_and_loaded(exports, tmp_path):
    import tensorflow_hub as hub

    given = tf.keras.Input([SIDE, SIDE, 3])
    model = tf.keras.Model(given, load_encoder(exports[0] / "affine")(given))
    model.save(tmp_path / "model.keras")
    custom = {"KerasLayer": hub.KerasLayer}
    again = tf.keras.models.load_model(tmp_path / "model.keras", custom_objects=custom)
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), atol=1e-6)


@pytest.mark.parametrize("name", ["lambda", "augmentation", "subclassed"])
def test_encoders_of_two_replicas(name, tmp_path):
    make, left_out = ENCODERS[name][0], left_out_of(name)
    with mirrored(2).scope():
        encoder = make()
        synchronize_batch_norm(encoder)
    (norm,) = batch_norm_layers(encoder)
    encoder.layers[-1].trainable = False
    frozen = [layer.trainable for layer in encoder.layers]
    assert sorted(check_exportable(encoder, SIDE)) == sorted(left_out)
    moved(encoder)
    export_encoder(encoder, tmp_path / "e", image_size=SIDE)
    loaded = load_encoder(tmp_path / "e")
    h = encoder(IMAGES, training=False)
    np.testing.assert_allclose(loaded(IMAGES, training=False), h, atol=1e-5, rtol=1e-5)
    assert norm.synchronized and norm.fused is False
    assert [layer.trainable for layer in encoder.layers] == frozen
    loaded(IMAGES, training=True)  # Its batch normalisation needs no replicas.


@pytest.fixture
def policy(request):
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("affine", "mixed_float16"),
        ("registered", "mixed_bfloat16"),
        ("subclassed", "mixed_bfloat16"),
        ("unregistered", "mixed_float16"),
    ],
    indirect=["policy"],
)
def test_encoders_in_mixed_precision_become_float32(name, policy, tmp_path):
    make, left_out = ENCODERS[name][0], left_out_of(name)
    encoder = make()
    assert sorted(check_exportable(encoder, SIDE)) == sorted(left_out)
    export_encoder(moved(encoder), tmp_path / "e", image_size=SIDE)
    tf.keras.mixed_precision.set_global_policy("float32")
    plain = make()
    plain.set_weights(encoder.get_weights())
    h = tf.saved_model.load(str(tmp_path / "e"))(IMAGES)
    np.testing.assert_allclose(h, plain(IMAGES, training=False), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("name", ["lambda", "no config", "one size"])
def test_mixed_precision_that_cannot_become_float32_is_refused(name, policy, tmp_path):
    encoder = ENCODERS[name][0]()
    with pytest.raises(UserError, match="cannot be exported: it computes in mixed precision"):
        check_exportable(encoder, SIDE)
    with pytest.raises(UserError, match="cannot be exported: it computes in mixed precision"):
        export_encoder(encoder, tmp_path / "e")
    assert not any(tmp_path.iterdir())


def with_python(x):
    return tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), [None, SIDE, SIDE, 3])


def with_table(x):
    keys = tf.constant([0, 1], tf.int64)
    values = tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1.0, 2.0]))
    table = tf.lookup.StaticHashTable(values, 0.0)
    return layers.Lambda(lambda y: y + table.lookup(tf.cast(y, tf.int64)))(x)


def two_outputs():
    images = tf.keras.Input([None, None, 3])
    h = layers.GlobalAveragePooling2D()(block(images))
    return tf.keras.Model(images, [h, h + 1.0])


def two_inputs():
    images = [tf.keras.Input([None, None, 3]) for _ in range(2)]
    return tf.keras.Model(images, layers.GlobalAveragePooling2D()(block(images[0] + images[1])))


def named_output():
    images = tf.keras.Input([None, None, 3])
    return tf.keras.Model(images, {"h": layers.GlobalAveragePooling2D()(block(images))})


class TwoOutputs(Subclassed):
    """Vectors and the sum of each."""

    def call(self, images, training=False):
        h = super().call(images, training=training)
        return h, tf.reduce_sum(h, axis=1)


class TwoInputs(Subclassed):
    """A difference of images."""

    def call(self, images, training=False):
        return super().call(images[0] - images[1], training=training)


def called_on_two(model):
    model([IMAGES, IMAGES])
    return model


class Untraceable(Subclassed):
    """Its training is Python that looks at values."""

    def call(self, images, training=False):
        h = super().call(images, training=training)
        return h * float(h[0, 0].numpy()) if training else h


REFUSED = {
    "python": (lambda: functional(lambda x: block(with_python(x)), SIDE), "calls Python code"),
    "a table": (lambda: functional(lambda x: block(with_table(x))), "resource that is not a var"),
    "two outputs": (two_outputs, "must have one output"),
    "two inputs": (two_inputs, "must have one input"),
    "two outputs, subclassed": (lambda: called(TwoOutputs()), "must have one output"),
    "two inputs, subclassed": (lambda: called_on_two(TwoInputs()), "must have one input"),
    "a named output": (named_output, "must have one output"),
    "maps": (lambda: functional(block, top=layers.ReLU), r"vectors \[N, D\]"),
    "never called": (Subclassed, "has not been built"),
    "never called, sequential": (sequential, "has not been built"),
    "any channels": (
        lambda: tf.keras.Sequential(
            [layers.InputLayer([None, None, None]), layers.GlobalAveragePooling2D()]
        ),
        "known number of channels",
    ),
    "too small images": (
        lambda: functional(lambda x: layers.AveragePooling2D(32)(block(x))),
        "fails on images of 16 x 16 pixels",
    ),
    "untraceable": (lambda: called(Untraceable()), "cannot be traced"),
    "no model": (lambda: triple, "must be a tf.keras model or layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_training_and_after(name, tmp_path):
    make, message = REFUSED[name]
    encoder = make()
    with pytest.raises(UserError, match=message):
        check_exportable(encoder, SIDE)
    if name != "too small images":  # Of which exporting knows nothing.
        with pytest.raises(UserError, match=message):
            export_encoder(encoder, tmp_path / "e")
        assert not any(tmp_path.iterdir())


def test_a_copy_of_a_partly_frozen_subclassed_model_is_the_same():
    encoder = moved(called(Subclassed()))
    encoder.conv.trainable = False
    copy = plain_copy(encoder)
    np.testing.assert_allclose(copy(IMAGES), encoder(IMAGES), atol=1e-6)
    assert not encoder.conv.trainable


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: applications.MobileNetV3Small(**options),
        lambda **options: applications.MobileNetV3Small(minimalistic=True, **options),
        lambda **options: applications.ConvNeXtTiny(**options),
        lambda **options: applications.EfficientNetB0(**options),
    ],
    ids=["MobileNetV3Small", "minimalistic", "ConvNeXtTiny", "EfficientNetB0"],
)
def test_encoders_of_keras_applications(make, tmp_path):
    encoder = make(weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3))
    left_out = check_exportable(encoder)
    export_encoder(encoder, tmp_path / "e")
    assert (tmp_path / "e" / KERAS_FILE).exists() == (KERAS not in left_out)
    images = RNG.random([2, 32, 32, 3]).astype(np.float32)
    layer = load_encoder(tmp_path / "e")
    h = encoder(images, training=False)
    np.testing.assert_allclose(layer(images, training=False), h, atol=1e-5, rtol=1e-4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(images, training=True))
    assert None not in tape.gradient(loss, layer.trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_a_resnet_in_mixed_precision_leaves_nothing_out(policy):
    """What is checked is what is exported: a copy in float32."""
    encoder = build_encoder("resnet10", image_size=SIDE, width_multiplier=0.125)
    assert check_exportable(encoder, SIDE) == {}
