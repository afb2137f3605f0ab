"""Images per second of each exported format, against the plain Keras model, on the CPU.

    python benchmarks/export.py [--encoder=resnet50] [--image_size=224] [--batch=8] [--threads=N]

The plain model is the encoder itself as a `tf.function`. Each format is written and loaded by
`tf_simclr.export`, except that ONNX Runtime and TFLite get --threads threads, as TensorFlow does:
by default, all cores. A call takes a batch as a NumPy array and returns h as one. Weights are
random, and so are the scales of batch normalisation; its statistics come from a few batches.

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
from tf_simclr.export.exportable import Exportable, exportable
from tf_simclr.export.formats import formats_named, write_formats
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


def plain(encoder: keras.Model) -> Run:
    compiled = tf.function(lambda images: encoder(images, training=False))
    return lambda images: compiled(tf.constant(images)).numpy()


def loaded(form, found: Exportable, folder: str, threads: int) -> Run:
    """What `form.load` returns, but with this number of threads: TFLite's default is one."""
    path = os.path.join(folder, form.files[0])
    if form.name == "onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return lambda images: session.run(["embedding"], {"images": images})[0]
    if form.name.startswith("tflite"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It recommends ai-edge-litert, from TensorFlow 2.20.
            run = tf.lite.Interpreter(path, num_threads=threads).get_signature_runner()
        return lambda images: run(images=images)["embedding"]
    return form.load(found, folder)


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
    runs = {"plain": plain(encoder)}
    representative = images_of(32, size, BATCHES + 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        exportable(encoder, size, representative=representative) as found,
    ):
        forms = formats_named(FORMATS)
        write_formats(found, forms, folder)
        if found.left_out:
            sys.exit(f"not exported: {found.left_out}")
        runs |= {form.name: loaded(form, found, folder, threads) for form in forms}
        for run in runs.values():
            run(images)
        timed = {
            n: lambda run=run: rate(lambda: run(images), batch, SECONDS) for n, run in runs.items()
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
