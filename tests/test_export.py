"""The exported encoder: a contract kept in a process that has no tf_simclr."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.exported import contents, small_encoder
from tests.replicas import mirrored
from tf_simclr.augment import center_crop_resize
from tf_simclr.errors import UserError
from tf_simclr.export import export_encoder, load_encoder
from tf_simclr.models.encoders import build_encoder, endpoint_tensors

RNG = np.random.default_rng(0)


def images(count=5, side=12, channels=3):
    return RNG.random([count, side, side, channels]).astype(np.float32)


FRESH = """
import json, os, sys
sys.modules["tf_simclr"] = None
import numpy as np, tensorflow as tf, tensorflow_hub as hub

given = np.load("given.npz")
x, pixels, h = given["x"], given["pixels"], given["h"]
close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5)

# As a Keras model.
keras = tf.keras.models.load_model("encoder/encoder.keras", safe_mode=True)
close(keras(x), h)

# As a Reusable SavedModel.
loaded = tf.saved_model.load("encoder")
close(loaded(x), h)
close(loaded(x, training=False), h)
close(loaded(given["larger"]), given["h_larger"])
shapes = sorted(tuple(v.shape) for v in loaded.variables)
assert shapes == sorted(tuple(v.shape) for v in keras.variables)
names = {v.name for v in loaded.trainable_variables}
assert names == {v.name for v in keras.trainable_variables}, names
assert len(loaded.variables) - len(names) == given["num_statistics"]
assert not any("moving" in name for name in names)
assert all(callable(loss) for loss in loaded.regularization_losses)

# By its signatures.
assert set(loaded.signatures) == {"serving_default", "uint8", "endpoints"}
close(loaded.signatures["serving_default"](tf.constant(x))["embedding"], h)
close(loaded.signatures["uint8"](tf.constant(pixels))["embedding"], given["h_pixels"])
endpoints = loaded.signatures["endpoints"](tf.constant(x))
expected = {key[9:]: given[key] for key in given if key.startswith("endpoint:")}
assert set(endpoints) == set(expected) and "final_avg_pool" in expected
for name, value in expected.items():
    close(endpoints[name], value)

# As a layer to fine-tune.
layer = hub.KerasLayer("encoder", trainable=True)
assert {v.name for v in layer.trainable_variables} == names
model = tf.keras.Sequential([layer, tf.keras.layers.Dense(1)])
close(layer(x), h)
statistics = [v.numpy() for v in layer.non_trainable_variables]
assert len(statistics) == given["num_statistics"]
with tf.GradientTape() as tape:
    loss = tf.reduce_mean(tf.square(model(x, training=True) - 1.0))
gradients = tape.gradient(loss, layer.trainable_variables)
assert all(g is not None for g in gradients)
assert sum(float(tf.norm(g)) for g in gradients) > 0
for before, v in zip(statistics, layer.non_trainable_variables):
    assert not np.array_equal(before, v.numpy()), v.name
moved = layer(x).numpy()
model.compile(tf.keras.optimizers.SGD(0.5), "mse")
model.fit(x, np.ones(len(x)), epochs=2, verbose=0)
assert not np.allclose(layer(x), moved, atol=1e-4)
layer.trainable = False
statistics = [v.numpy() for v in layer.weights]
model.compile(tf.keras.optimizers.SGD(0.5), "mse")
model.fit(x, np.ones(len(x)), epochs=1, verbose=0)
for before, v in zip(statistics, layer.weights):
    np.testing.assert_array_equal(before, v.numpy())
"""


def run_fresh(encoder, folder):
    """Exports, then checks all of the contract in a new process without tf_simclr."""
    channels = encoder.input_shape[-1]
    x, larger = images(channels=channels), images(2, 17, channels)
    pixels = RNG.integers(0, 256, [3, 30, 20, channels], np.uint8)
    endpoints = tf.keras.Model(encoder.input, endpoint_tensors(encoder))(x, training=False)
    np.savez(
        folder / "given.npz",
        x=x,
        h=encoder(x, training=False),
        larger=larger,
        h_larger=encoder(larger, training=False),
        pixels=pixels,
        h_pixels=encoder(center_crop_resize(pixels, 12, 0.8), training=False),
        num_statistics=len(encoder.non_trainable_variables),
        **{f"endpoint:{name}": value for name, value in endpoints.items()},
    )
    export_encoder(encoder, folder / "encoder", image_size=12, crop_proportion=0.8)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        cwd=folder,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_our_encoder_in_a_process_without_us(tmp_path):
    # Not narrower: TensorFlow 2.15's oneDNN corrupts memory in the filter gradient of a strided 1x1
    # convolution of 8 channels when the batch is odd. 16 channels and more are safe.
    run_fresh(build_encoder("resnet18", image_size=12, width_multiplier=0.25), tmp_path)


def test_any_encoder_of_any_channels_in_a_process_without_us(tmp_path):
    run_fresh(small_encoder(channels=5, kernel_regularizer="l2"), tmp_path)


def test_the_command_line_answers_for_uint8_images(tmp_path):
    encoder = small_encoder()
    export_encoder(encoder, tmp_path / "e", image_size=12)
    pixels = RNG.integers(0, 256, [2, 40, 30, 3], np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
    command += ["--dir", "e", "--tag_set", "serve", "--signature_def", "uint8"]
    command += ["--inputs", "images=pixels.npy", "--outdir", "."]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=200)
    expected = encoder(center_crop_resize(pixels, 12, 1.0), training=False)
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), expected, atol=1e-5)


def test_precision_strategy_and_frozen_layers_stay_behind(tmp_path):
    plain = small_encoder()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        with mirrored(2).scope():
            encoder = small_encoder()
            encoder.get_layer("bn").synchronized = True
            encoder.get_layer("bn").fused = False
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    encoder.set_weights(plain.get_weights())
    encoder.trainable = False
    export_encoder(encoder, tmp_path / "e")
    assert not encoder.trainable and encoder.get_layer("bn").synchronized

    x = images()
    loaded = tf.saved_model.load(str(tmp_path / "e"))
    np.testing.assert_allclose(loaded(x), plain(x), atol=1e-6)
    assert len(loaded.trainable_variables) == 4
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loaded(x, training=True))
    assert None not in tape.gradient(loss, loaded.trainable_variables)
    np.testing.assert_allclose(loaded(x), plain_after_a_training_call(plain, x), atol=1e-6)
    keras = tf.keras.models.load_model(tmp_path / "e" / "encoder.keras", safe_mode=True)
    assert all(layer.trainable and layer.compute_dtype == "float32" for layer in keras.layers)
    assert not keras.get_layer("bn").synchronized


def plain_after_a_training_call(encoder, x):
    encoder(x, training=True)
    return encoder(x, training=False)


def test_regularization_losses_follow_the_variables(tmp_path):
    encoder = small_encoder(kernel_regularizer=tf.keras.regularizers.L2(0.1))
    export_encoder(encoder, tmp_path / "e")
    layer = load_encoder(tmp_path / "e")
    kernel = next(v for v in layer.trainable_variables if "kernel" in v.name)
    kernel.assign(tf.ones_like(kernel))
    assert float(tf.add_n(layer.losses)) == pytest.approx(0.1 * 3 * 3 * 3 * 4)


def test_the_layer_serves_in_keras_models(tmp_path):
    encoder = small_encoder(channels=1)
    export_encoder(encoder, tmp_path / "e")
    layer = load_encoder(tmp_path / "e")
    inputs = tf.keras.Input([12, 12, 1])
    h = layer(inputs)
    assert h.shape.as_list() == [None, 4] and layer.trainable
    x = images(channels=1)
    np.testing.assert_allclose(
        tf.keras.Model(inputs, h).predict(x, verbose=0), encoder(x), atol=1e-6
    )


def test_images_as_they_are_where_no_size_is_known(tmp_path):
    encoder = small_encoder()
    pixels = RNG.integers(0, 256, [2, 14, 9, 3], np.uint8)
    export_encoder(encoder, tmp_path / "e")
    loaded = tf.saved_model.load(str(tmp_path / "e"))
    h = loaded.signatures["uint8"](tf.constant(pixels))["embedding"]
    np.testing.assert_allclose(h, encoder(pixels / np.float32(255)), atol=1e-6)

    fixed = small_encoder(side=10)
    export_encoder(fixed, tmp_path / "f")
    loaded = tf.saved_model.load(str(tmp_path / "f"))
    h = loaded.signatures["uint8"](tf.constant(pixels))["embedding"]
    np.testing.assert_allclose(h, fixed(center_crop_resize(pixels, 10, 1.0)), atol=1e-6)


def test_the_card(tmp_path):
    card = {
        "encoder": "resnet18",
        "trained_on": "digits (train), 1297 images, no labels",
        "settings": {"dataset": "cifar10"},
        "results": {"knn_eval": {"k": 20, "top1": {"trained encoder": np.float32(0.96875)}}},
    }
    export_encoder(small_encoder(), tmp_path / "e", image_size=64, card=card)
    facts = json.loads((tmp_path / "e" / "card.json").read_text())
    assert facts["encoder"] == "resnet18" and facts["trained_on"] == card["trained_on"]
    assert facts["results"]["knn_eval"]["top1"]["trained encoder"] == 0.96875
    assert facts["input"]["image_size"] == 64 and facts["input"]["crop_proportion"] == 0.875
    assert facts["input"]["channels"] == 3 and facts["embedding_dim"] == 4
    assert facts["versions"]["tensorflow"] == tf.__version__
    text = (tmp_path / "e" / "card.md").read_text()
    _, head, body = text.split("---\n", 2)  # Between the dashes: YAML, as the hub reads it.
    head = {
        name: json.loads(value) for name, _, value in (x.partition(":") for x in head.splitlines())
    }
    assert head["library_name"] == "tf-keras" and head["license"] == "unknown"
    assert head["pipeline_tag"] == "image-feature-extraction" and "simclr" in head["tags"]
    assert head["datasets"] == ["cifar10"] and head["metrics"] == ["accuracy"]
    assert body.startswith("\n# Encoder resnet18\n")
    for piece in ("digits (train)", "**trained encoder**: 0.9688", "uint8", "hub.KerasLayer"):
        assert piece in text


@pytest.mark.parametrize("failing", ["model.save", "card", "first rename", "second rename"])
def test_a_failure_leaves_the_earlier_export(failing, tmp_path, monkeypatch):
    export_encoder(small_encoder(), tmp_path / "e")
    before = contents(tmp_path)
    rename, calls = tf.io.gfile.rename, []
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device") if failing == "model.save" else full

    def fail_at_rename(source, target, overwrite=False):
        calls.append(source)
        if len(calls) == ["first rename", "second rename"].index(failing) + 1:
            raise full
        rename(source, target, overwrite)

    if failing == "model.save":
        monkeypatch.setattr(tf.keras.Model, "save", fail)
    elif failing == "card":
        monkeypatch.setattr("tf_simclr.export.card.markdown", fail)
    else:
        monkeypatch.setattr(tf.io.gfile, "rename", fail_at_rename)
    with pytest.raises(UserError, match="cannot be written to .*No space left"):
        export_encoder(small_encoder(), tmp_path / "e")
    assert contents(tmp_path) == before


def test_an_interrupted_replacement_is_mended(tmp_path):
    first, second = small_encoder(), small_encoder()
    export_encoder(first, tmp_path / "e")
    (tmp_path / "e").rename(tmp_path / "e.old")
    (tmp_path / "e.new").mkdir()
    (tmp_path / "e.new" / "half").write_text("")
    export_encoder(second, tmp_path / "e")
    assert [path.name for path in tmp_path.iterdir()] == ["e"]
    x = images()
    np.testing.assert_allclose(load_encoder(tmp_path / "e")(x), second(x), atol=1e-6)


def test_what_is_no_export_is_not_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="exists but is not an exported encoder, so it will not"):
        export_encoder(small_encoder(), tmp_path)
    with pytest.raises(UserError, match="precious.txt exists"):
        export_encoder(small_encoder(), tmp_path / "precious.txt")
    assert contents(tmp_path) == {tmp_path.__class__("precious.txt"): b"mine"}
    (tmp_path / "empty").mkdir()
    export_encoder(small_encoder(), tmp_path / "empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1; received 0"),
        ({"crop_proportion": 1.5}, r"crop_proportion must lie in \(0, 1\]; received 1.5"),
        ({"side": 10, "image_size": 12}, "image_size=12 does not fit the encoder"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path):
    encoder = small_encoder(side=arguments.pop("side", None))
    with pytest.raises(UserError, match=message):
        export_encoder(encoder, tmp_path / "e", **arguments)
    assert not any(tmp_path.iterdir())


def test_what_is_no_encoder_is_refused(tmp_path):
    inputs = tf.keras.Input([8, 8, 3])
    maps = tf.keras.Model(inputs, tf.keras.layers.Conv2D(2, 3)(inputs))
    for wrong, message in (
        (maps, r"encoder must map images to vectors \[N, D\]"),
        (tf.keras.layers.Dense(3), "has not been built"),
        (None, "encoder must be a tf.keras model or layer.*received None"),
    ):
        with pytest.raises(UserError, match=message):
            export_encoder(wrong, tmp_path / "e")
    with pytest.raises(UserError, match="no exported encoder at .*no saved_model.pb"):
        load_encoder(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(tmp_path)
