"""Small runs for tests: their settings, how to start them, and their files."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import tensorflow as tf

from tf_simclr import tasks
from tf_simclr.config import Config
from tf_simclr.tasks import build
from tf_simclr.workdir import read_results

# Settings of every small run, in this process or in a separate one.
SHAPE = {
    "dataset": "digits",
    "image_size": 8,
    "encoder": "resnet10",
    "width_multiplier": 0.125,
    "use_blur": False,
    "flip_probability": 0.0,
    "num_proj_layers": 2,
    "proj_out_dim": 16,
    "train_batch_size": 32,
    "warmup_epochs": 0.05,
}
SMALL = {**SHAPE, "train_steps": 8, "checkpoint_steps": 4, "log_steps": 2}


_encoder_of = build.encoder_of


def tiny_encoder(config, channels):
    """In place of `build.encoder_of`: the small runs' encoder is one that is traced in a second."""
    if config.encoder != SHAPE["encoder"]:
        return _encoder_of(config, channels)
    tf.keras.utils.set_random_seed(config.seed)
    layers = tf.keras.layers
    images = tf.keras.Input([None, None, channels], name="images")
    x = layers.Conv2D(round(128 * config.width_multiplier), 3, 2, padding="same", name="conv")(
        images
    )
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return tf.keras.Model(images, x, name="tiny")


def run(workdir, **settings):
    """Runs one mode in this process, on one device."""
    config = Config(workdir=str(workdir), **{**SMALL, **settings})
    tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))


def lines(workdir):
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def result(workdir):
    """The results that the modes have written to results/."""
    return read_results(str(workdir))


def contents(folder):
    """{relative path: bytes} of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digests(folder):
    """{relative path: SHA-256} of every file below a folder."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


def write_images(folder, count=12, size=24):
    """Creates a folder with JPEGs of noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.integers(0, 256, [size, size, 3], np.uint8)
        (folder / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(image).numpy())
