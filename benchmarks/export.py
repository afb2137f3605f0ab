"""Images per second of each exported format, against the plain Keras model, on the CPU.

    python benchmarks/export.py [--encoder=resnet50] [--image_size=224] [--batch=8] [--threads=N]

Plain is the encoder as a `tf.function`; so are the models loaded from .keras and HDF5, and what a
SavedModel holds. Eager is the encoder called layer by layer. All get --threads threads (by default,
one per core), which TensorFlow, ONNX Runtime and TFLite each have a setting for: TFLite's default
is one. A call takes a batch as a NumPy array and returns h as one.

Expected before measuring: SavedModel, .keras and HDF5 within 5 % of the plain model, as TensorFlow
runs the same graph, with batch normalisation unfolded. ONNX and TFLite fold it into the
convolutions: 1.2 to 1.5 times the plain model's speed. float16 like float32, in which a CPU
computes it, and int8 twice as fast as that. What was found: docs/measurements.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import onnxruntime
import tensorflow as tf

import tf_simclr
from benchmarks.timing import flags, in_turns, rate, report
from tf_simclr.stack import keras

FORMATS = ("saved_model", "keras", "h5", "onnx", "tflite", "tflite_float16", "tflite_int8")
BATCHES = 4  # They move the statistics of batch normalisation.
SECONDS = 0.5  # Of one turn; at least one batch is run.

Run = Callable[[np.ndarray], np.ndarray]  # Images to h.


def encoder_of(name: str, size: int) -> keras.Model:
    """A random encoder with random norms: scaled by 0, they would let converters drop blocks."""
    encoder = tf_simclr.build_encoder(name, image_size=size)
    rng = np.random.default_rng(0)
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.gamma is not None:
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
    train = tf.function(lambda images: encoder(images, training=True))
    for seed in range(BATCHES):
        train(tf.constant(images_of(16, size, seed)))
    return encoder


def images_of(count: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random([count, size, size, 3], np.float32)


def contestants(encoder: keras.Model, folder: str, threads: int) -> dict[str, Run]:
    """The encoder and what was exported to the folder, loaded, by name."""

    def path(ending):
        return os.path.join(folder, f"encoder{ending}")

    saved = tf.saved_model.load(folder)
    return {
        "plain": compiled(encoder),
        "eager": lambda images: encoder(tf.constant(images), training=False).numpy(),
        "saved_model": lambda images: saved.serve(tf.constant(images)).numpy(),
        "keras": compiled(keras.models.load_model(path(".keras"), compile=False)),
        "h5": compiled(keras.models.load_model(path(".h5"), compile=False)),
        "onnx": onnx(path(".onnx"), threads),
        "tflite": tflite(path(".tflite"), threads),
        "tflite_float16": tflite(path("_float16.tflite"), threads),
        "tflite_int8": tflite(path("_int8.tflite"), threads),
    }


def compiled(model: keras.Model) -> Run:
    function = tf.function(lambda images: model(images, training=False))
    return lambda images: function(tf.constant(images)).numpy()


def onnx(path: str, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["embedding"], {"images": images})[0]


def tflite(path: str, threads: int) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It recommends ai-edge-litert, from TensorFlow 2.20 on.
        runner = tf.lite.Interpreter(path, num_threads=threads).get_signature_runner()
    return lambda images: runner(images=images)["embedding"]


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    size, batch, threads = arguments.image_size, arguments.batch, arguments.threads
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    encoder, images = encoder_of(arguments.encoder, size), images_of(batch, size, BATCHES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = os.path.join(scratch, "encoder")
        tf_simclr.export_encoder(
            encoder,
            folder,
            image_size=size,
            formats=FORMATS,
            representative_images=images_of(32, size, BATCHES + 1),
        )
        runs = contestants(encoder, folder, threads)
    for run in runs.values():
        run(images)
    timed = {
        name: lambda run=run: rate(lambda: run(images), batch, SECONDS)
        for name, run in runs.items()
    }
    rates = in_turns(timed, arguments.runs)
    report(
        benchmark="export",
        unit="images/s",
        encoder=arguments.encoder,
        image_size=size,
        batch=batch,
        threads=threads,
        cores=os.cpu_count(),
        tensorflow=tf.__version__,
        onnxruntime=onnxruntime.__version__,
        **rates,
        **{f"ratio_{n}": value / rates["plain"] for n, value in rates.items() if n != "plain"},
    )


if __name__ == "__main__":
    main()
