"""What the card says of loading each format, run in a process that has no tf_simclr."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.export import export_encoder
from tf_simclr.export.formats import FORMATS
from tf_simclr.export.keras_file import (
    _ACTIVATIONS_IN_KERAS_3,
    _IN_KERAS_3,
    save_h5,
    why_not_h5,
)
from tf_simclr.models.encoders import build_encoder

layers = tf.keras.layers
RNG = np.random.default_rng(0)
SIDE = 32
IMAGES = RNG.random([16, SIDE, SIDE, 3]).astype(np.float32)
WITH_KERAS_3 = sys.version_info >= (3, 12)
needs_keras_3 = pytest.mark.skipif(not WITH_KERAS_3, reason="the classic stack has no Keras 3")

# Name: how to make it.
ENCODERS = {
    "resnet18": lambda: build_encoder("resnet18", image_size=SIDE, width_multiplier=0.25),
    "selective": lambda: build_encoder(
        "resnet50", image_size=SIDE, width_multiplier=0.125, sk_ratio=0.0625
    ),
}

FORMATS_OF = {
    "resnet18": [form.name for form in FORMATS],
    "selective": ["saved_model", "keras", "h5", "safetensors"],  # Conversion takes longer.
}

START = """
import os, sys
sys.modules["tf_simclr"] = None
import numpy as np

def difference(h, expected):
    assert h.shape == expected.shape, h.shape
    return np.max(np.abs(np.asarray(h) - expected) / expected.std(axis=0).mean())

given = np.load("given.npz")
images, pixels, expected, of_pixels = (given[k] for k in ("images", "pixels", "h", "h_pixels"))
"""
CHECKED = """
assert difference(h, expected if len(h) == len(expected) else of_pixels) < {tolerance}, {program!r}
"""
FINE_TUNED = """
keras.utils.set_random_seed(0)
classifier = keras.Sequential([encoder, keras.layers.Dense(4)])
before = [weight.numpy() for weight in encoder.weights]
trained = len(encoder.trainable_weights)
assert 0 < trained < len(before)
classifier.compile(
    keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
history = classifier.fit(images, np.arange(16) % 4, epochs=8, batch_size=8, verbose=0).history
losses = history["loss"]
assert losses[-1] < 0.7 * losses[0], losses
still = [w.name for old, w in zip(before, encoder.weights) if np.array_equal(old, w.numpy())]
assert not still, still  # Kernels, scales, and the moving statistics of batch normalisation.
assert difference(encoder(images), expected) > 1e-2
"""


def run(code, folder, keras):
    """Runs code in a new process whose `tf.keras` is that version of Keras."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", LEGACY)}
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        cwd=folder,
        env={
            **environment,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **({LEGACY: "1"} if keras == 2 and WITH_KERAS_3 else {}),
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]


LEGACY = "TF_USE_LEGACY_KERAS"
KERAS_3 = "import keras\nassert keras.__version__.startswith('3.')\n"


def settled(make):
    """An encoder with scales and statistics that are not those of a new one."""
    tf.keras.utils.set_random_seed(0)
    encoder = make()
    rng = np.random.default_rng(1)
    for variable in encoder.trainable_variables:
        if "gamma" in variable.name:  # The last of a block starts at 0.
            variable.assign(rng.uniform(0.2, 1.0, variable.shape))
    for _ in range(30):
        encoder(IMAGES, training=True)
    return encoder


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """{encoder: a folder with its export in every format, and what is expected of it}."""
    made = {}
    for name, make in ENCODERS.items():
        folder, encoder = tmp_path_factory.mktemp(name), settled(make)
        export_encoder(
            encoder,
            folder / "e",
            image_size=SIDE,
            crop_proportion=0.875,
            formats=FORMATS_OF[name],
            representative_images=IMAGES,
        )
        pixels = RNG.integers(0, 256, [5, 71, 50, 3], np.uint8)
        encode = tf.saved_model.load(str(folder / "e")).signatures["uint8"]
        np.savez(
            folder / "given.npz",
            images=IMAGES,
            pixels=pixels,
            h=encoder(IMAGES, training=False),
            h_pixels=encode(tf.constant(pixels))["embedding"],
        )
        made[name] = folder
    return made


def uses(encoder, wanted):
    """[(format, program, code)] of the lines on the card for programs that `wanted` accepts."""
    return [
        (form, program, code.replace("this/folder", "e"))
        for form in FORMATS
        for program, code in form.use.items()
        if form.name in FORMATS_OF[encoder] and wanted(program)
    ]


def checked(found):
    """Code that runs each of the lines and compares h; int8 and float16 are less exact."""
    tolerance = {"tflite_float16": 0.2, "tflite_int8": 20.0}
    return "\n".join(
        code + CHECKED.format(tolerance=tolerance.get(form.name, 2e-3), program=program)
        for form, program, code in found
    )


def test_every_format_of_the_card_loads_with_keras_2(exports):
    found = uses("resnet18", lambda program: program not in ("Keras 3", "PyTorch", "NumPy"))
    assert {form.name for form, *_ in found} == {f.name for f in FORMATS} - {"h5", "safetensors"}
    fine_tuned = "import tensorflow as tf\nkeras = tf.keras\n" + FINE_TUNED
    by_name = 'encoder = tf.keras.models.load_model("e/encoder.h5", compile=False)\n' + fine_tuned
    loaded = [code + "\n" + fine_tuned for _, program, code in found if program == "Keras 2"]
    run(checked(found) + "\n".join([*loaded, by_name]), exports["resnet18"], 2)


@needs_keras_3
@pytest.mark.parametrize("name", ENCODERS)
def test_every_format_for_keras_3_loads(name, exports):
    found = uses(name, lambda program: program in ("Keras 3", "TensorFlow"))
    assert {form.name for form, *_ in found} == {"saved_model", "h5"}
    default = 'h = keras.layers.TFSMLayer("e")(images)\n'
    default += CHECKED.format(tolerance=1e-3, program="default endpoint")
    run(checked(found) + KERAS_3 + default, exports[name], 3)


@needs_keras_3
def test_keras_3_fine_tunes(exports):
    found = uses("resnet18", lambda program: program == "Keras 3")
    assert len(found) == 2
    code = "\n".join(code + "\n" + FINE_TUNED for _, _, code in found)
    run(KERAS_3 + code, exports["resnet18"], 3)


def test_the_weights_of_the_card_are_the_encoders(exports):
    ((_, _, code),) = uses("resnet18", lambda program: program == "NumPy")
    names = {}
    code = code.replace('"e/', f'"{exports["resnet18"]}/e/')
    exec(code, names)
    encoder = settled(ENCODERS["resnet18"])
    assert len(names["weights"]) == len(encoder.weights)
    for variable in encoder.weights:
        key = variable.name.split(":")[0].replace("/", ".")
        np.testing.assert_array_equal(names["weights"][key], variable)


def test_the_readme_shows_what_the_cards_show():
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    for form in FORMATS:
        for program, code in form.use.items():
            if program != "NumPy" and not form.name.startswith("tflite_"):
                assert f"```python\n{code}\n```".replace("this/folder", "encoder") in readme
        assert all(f"`{file}`" in readme for file in form.files) or form.name == "saved_model"
        assert f"`{form.name}`" in readme


@needs_keras_3
@pytest.mark.slow
def test_keras_3_loads_the_encoders_that_build_names(tmp_path):
    for name in ("MobileNet", "MobileNetV2", "ResNet50V2", "Xception", "resnet18v2", "densenet121"):
        encoder = build_encoder(name)
        assert not why_not_h5(encoder)
        save_h5(encoder, str(tmp_path / f"{name}.h5"))
        np.save(tmp_path / f"{name}.npy", encoder(IMAGES, training=False))
    np.savez(tmp_path / "given.npz", images=IMAGES, pixels=0, h=0, h_pixels=0)
    code = """
import glob
for file in glob.glob("*.h5"):
    encoder = keras.models.load_model(file, compile=False)
    np.testing.assert_allclose(encoder(images), np.load(file[:-2] + "npy"), rtol=1e-3, atol=1e-5)
assert len(glob.glob("*.h5")) == 6
"""
    run(KERAS_3 + code, tmp_path, 3)


def images_through(make, shape=(8, 8, 4)):
    images = tf.keras.Input(shape)
    return tf.keras.Model(images, layers.GlobalAveragePooling2D()(make(images)))


# Every layer of the allow-list, with settings that are not the defaults.
IN_KERAS_3 = {
    "Activation": lambda: layers.Activation("swish"),
    "AveragePooling2D": lambda: layers.AveragePooling2D(3, 2, "same"),
    "BatchNormalization": lambda: layers.BatchNormalization(epsilon=1e-2, momentum=0.5),
    "Conv2D": lambda: layers.Conv2D(6, 3, 2, "same", dilation_rate=1, groups=2, activation="elu"),
    "Cropping2D": lambda: layers.Cropping2D(((0, 0), (0, 2)), data_format="channels_first"),
    "Dense": lambda: layers.Dense(5, "tanh", kernel_regularizer="l2"),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2),
    "Dropout": lambda: layers.Dropout(0.5),
    "LayerNormalization": lambda: layers.LayerNormalization(epsilon=1e-2),
    "LeakyReLU": lambda: layers.LeakyReLU(0.3),
    "MaxPooling2D": lambda: layers.MaxPooling2D(3, 2, "same"),
    "Permute": lambda: layers.Permute((2, 1, 3)),
    "PReLU": lambda: layers.PReLU(alpha_initializer="ones", shared_axes=[1, 2]),
    "ReLU": lambda: layers.ReLU(max_value=0.6, negative_slope=0.1, threshold=0.2),
    "Rescaling": lambda: layers.Rescaling(2.0, [-1.0, 0.0, 0.5, 1.0]),
    "Reshape": lambda: layers.Reshape((4, 16, 4)),
    "SeparableConv2D": lambda: layers.SeparableConv2D(6, 3, padding="same"),
    "Softmax": lambda: layers.Softmax(),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.5),
    "UpSampling2D": lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    "ZeroPadding2D": lambda: layers.ZeroPadding2D(((1, 2), (0, 3))),
}
MERGING = ("Add", "Average", "Concatenate", "Maximum", "Multiply", "Subtract")


def of_the_allow_list():
    """{name: a model}"""
    models = {name: images_through(make()) for name, make in IN_KERAS_3.items()}
    for name in MERGING:
        merge = getattr(layers, name)()
        models[name] = images_through(lambda x, merge=merge: merge([x, layers.ReLU(0.5)(x)]))
    for name in sorted(_ACTIVATIONS_IN_KERAS_3 - {"relu6"}):
        models[f"activation {name}"] = images_through(layers.Conv2D(4, 3, activation=name))
    models["activation relu6"] = images_through(layers.Activation(tf.nn.relu6))
    images = tf.keras.Input([8, 8, 4])
    models["Flatten"] = tf.keras.Model(images, layers.Flatten()(images))
    models["GlobalMaxPooling2D"] = tf.keras.Model(
        images, layers.GlobalMaxPooling2D(keepdims=False)(images)
    )
    models["Sequential"] = tf.keras.Sequential(
        [layers.InputLayer([None, None, 4]), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    )
    called = tf.keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    called(tf.zeros([1, 8, 8, 4]))
    models["Sequential that was called"] = called
    return models


@needs_keras_3
def test_keras_3_has_every_layer_of_the_allow_list(tmp_path):
    x = RNG.normal(size=[6, 8, 8, 4]).astype(np.float32)
    models, expected, kinds = of_the_allow_list(), {}, set()
    for name, model in models.items():
        assert why_not_h5(model) == "", name
        model.set_weights([RNG.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
        expected[name] = model(x, training=False)
        save_h5(model, str(tmp_path / f"{name}.h5"))
        kinds |= {type(layer).__name__ for layer in model.submodules}
    assert not _IN_KERAS_3 - kinds
    np.savez(tmp_path / "expected.npz", **expected)
    np.savez(tmp_path / "given.npz", images=x, pixels=0, h=0, h_pixels=0)
    run(
        """
import keras
assert keras.__version__.startswith("3.")
wrong, expected = {}, np.load("expected.npz")
for name in expected:
    try:
        model = keras.models.load_model(f"{name}.h5", compile=False)
        h = model(images, training=False)
        assert h.shape == expected[name].shape, h.shape
        h = h.numpy()
        if np.max(np.abs(h - expected[name])) > 1e-5:
            wrong[name] = np.max(np.abs(h - expected[name]))
    except Exception as error:
        wrong[name] = repr(error)[:200]
assert not wrong, wrong
""",
        tmp_path,
        3,
    )


@tf.keras.saving.register_keras_serializable(package="test_export_programs")
def gelu(x):
    return x * 2.0


@tf.keras.saving.register_keras_serializable(package="test_export_programs")
class Own(tf.keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.0

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: layers.ReLU()(x * 2.0), "does not have the layer TFOpLambda"),
        (lambda x: layers.ReLU()(x[:, :, :, :2]), "does not have the layer SlicingOpLambda"),
        (layers.Conv2D(4, 3, activation="hard_sigmoid"), "activation=hard_sigmoid .conv2d"),
        (layers.Activation(lambda x: x * 2.0), "does not have activation=<lambda>"),
        (layers.Conv2D(4, 3, activation=gelu), "does not have activation=.*gelu"),
        (layers.Softmax(axis=[1, 2]), r"does not have axis=.*\[1, 2\]"),
        (layers.BatchNormalization(axis=[1, 3], fused=False), "does not have axis="),
        (layers.Conv2D(4, 3, kernel_constraint="RadialConstraint"), "have kernel_constraint="),
        (layers.Conv2D(4, 3, kernel_regularizer=Own()), "have kernel_regularizer="),
        (layers.ReLU(name="a/b"), 'no layer with "/" in its name .a/b'),
        (layers.Normalization(mean=0.5, variance=1.0), "layer Normalization"),
        (tf.keras.Sequential([layers.ReLU()]), "no models inside a model .sequential"),
    ],
    ids=[
        *("operation", "slice", "hard_sigmoid", "lambda", "a name that Keras has", "two axes"),
        *("axes of statistics", "constraint", "regularizer", "name", "layer", "nested"),
    ],
)
def test_what_keras_3_does_not_have_is_named(make, reason):
    assert re.search(reason, why_not_h5(images_through(make)))
