"""Configs and .keras files that the other Keras 2, TensorFlow's or tf_keras, would have written."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.checkpoints.keras_files import for_this_stack, from_config
from tf_simclr.errors import UserError
from tf_simclr.models.encoders import build_encoder

HERE = tf.keras.layers.Layer.__module__.partition(".")[0]
OTHER = {"keras": "tf_keras", "tf_keras": "keras"}[HERE]


def as_the_other_writes_it(config):
    """With the other's modules and, as tf_keras 2.21 writes it, InputLayer's `optional`."""
    if isinstance(config, list):
        return [as_the_other_writes_it(part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {name: as_the_other_writes_it(value) for name, value in config.items()}
    if str(config.get("module")).startswith(f"{HERE}.src."):
        config["module"] = OTHER + config["module"][len(HERE) :]
    if config.get("class_name") == "InputLayer":
        config["config"]["optional"] = False
    return config


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("resnet10", image_size=8, width_multiplier=0.125)


def written_by_the_other(encoder, folder, change=as_the_other_writes_it):
    """A .keras file of the encoder with a changed config."""
    encoder.save(folder / "own.keras")
    with zipfile.ZipFile(folder / "own.keras") as own:
        with zipfile.ZipFile(folder / "other.keras", "w") as other:
            for name in own.namelist():
                data = own.read(name)
                if name == "config.json":
                    changed = json.dumps(change(json.loads(data))).encode()
                    assert changed != data
                    data = changed
                other.writestr(name, data)
    return str(folder / "other.keras")


def assert_same(one, other):
    images = np.random.default_rng(0).random([2, 8, 8, 3]).astype(np.float32)
    np.testing.assert_array_equal(one(images), other(images))


def test_a_keras_file_of_the_other_is_loaded(encoder, tmp_path):
    path = written_by_the_other(encoder, tmp_path)
    assert_same(load_encoder_from(path), encoder)


def test_a_config_of_the_other_is_used(encoder):
    config = as_the_other_writes_it(tf.keras.saving.serialize_keras_object(encoder))
    assert OTHER + ".src." in json.dumps(config)
    again = from_config(config)
    again.set_weights(encoder.get_weights())
    assert_same(again, encoder)


def test_what_is_of_here_stays_as_it_is(encoder):
    config = tf.keras.saving.serialize_keras_object(encoder)
    optional = {"module": "keras.layers", "class_name": "InputLayer", "config": {"optional": True}}
    mine = {"module": "my_keras.src.layers", "class_name": "Mine", "config": {"optional": False}}
    text = {"name": f"{OTHER}.src.layers", "module": f"{OTHER}.src.layers"}  # Not of a class.
    for kept in (optional, mine, text):
        assert for_this_stack(kept) == kept
    assert for_this_stack(for_this_stack(config)) == for_this_stack(config)


@pytest.mark.parametrize("module", ["os", "tf_keras.src.utils.data_utils", "keras.src.utils"])
def test_unsafe_configs_are_refused_whoever_wrote_them(module, encoder, tmp_path):
    def unsafe(config):
        config["config"]["layers"][1].update(module=module, class_name="system")
        return config

    path = written_by_the_other(encoder, tmp_path, unsafe)
    with pytest.raises(UserError, match="which could run any code"):
        load_encoder_from(path)
