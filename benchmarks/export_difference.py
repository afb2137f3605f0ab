"""How far the vectors of each exported format lie from the Keras model's, on photographs.

    python benchmarks/export_difference.py --photos=DIR [--encoder=resnet50] [--image_size=224]
        [--sk_ratio=0] [--init_from=WORKDIR]

The largest difference over 100 photographs, in standard deviations of each dimension of h; see
`export.probe.relative_difference`. The other photographs in the folder are the representative
images. With --init_from the encoder is that of a run; otherwise its weights are random, scales of
batch normalisation that would switch a block off too, and its statistics are those of the
representative images.
"""

from __future__ import annotations

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tf_simclr  # Before TensorFlow, so that keras-cv uses the package's Keras.

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks.timing import flags, report
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.export.exportable import exportable
from tf_simclr.export.formats import FORMATS, why_not, write_formats
from tf_simclr.export.probe import function_of, relative_difference
from tf_simclr.stack import keras

COMPARED, BATCH = 100, 10
MOMENTUM = 0.7  # So that a few batches move the statistics.


def photographs(folder: str, size: int, channels: int) -> np.ndarray:
    source = tf_simclr.open_source("folder", folder, channels=channels)
    dataset = eval_dataset(source, batch_size=BATCH, image_size=size)
    return np.concatenate(list(dataset.as_numpy_iterator()))


def with_statistics(encoder: keras.Model, images: np.ndarray) -> keras.Model:
    rng = np.random.default_rng(0)
    for layer in encoder.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
            gamma = getattr(layer, "gamma", None)  # keras-cv has layers that it never builds.
            if gamma is not None and not np.any(gamma):  # It switches a block off.
                gamma.assign(rng.uniform(0.1, 0.4, gamma.shape))
    for _ in range(3):
        for start in range(0, len(images), 16):
            encoder(images[start : start + 16], training=True)
    return encoder


def in_batches(function, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    return np.concatenate([np.asarray(function(images[i : i + BATCH])) for i in starts])


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--sk_ratio", type=float, default=0.0)
    parser.add_argument("--init_from", help="workdir of a run, instead of a random encoder")
    arguments = parser.parse_args()
    if not arguments.photos:
        return
    size, options = arguments.image_size, {}
    if arguments.sk_ratio:
        options["sk_ratio"] = arguments.sk_ratio
    if arguments.init_from:
        encoder = load_encoder_from(arguments.init_from)
    else:
        encoder = tf_simclr.build_encoder(arguments.encoder, image_size=size, **options)
    images = photographs(arguments.photos, size, encoder.input_shape[-1])
    compared, representative = images[:COMPARED], images[COMPARED:]
    if not arguments.init_from:
        encoder = with_statistics(encoder, representative)
    expected = in_batches(function_of(encoder), compared)
    differences = {}
    prepared = exportable(encoder, size, None, representative)
    with tempfile.TemporaryDirectory() as folder, prepared as found:
        forms = [form for form in FORMATS if not why_not(form, encoder, found.config_problem)]
        write_formats(found, forms, folder)
        for form in forms:
            if form.name not in found.left_out:
                h = in_batches(form.load(found, folder), compared)
                differences[form.name] = f"{relative_difference(expected, h):.2g}"
    report(
        benchmark="export_difference",
        unit="standard deviations of a dimension",
        encoder=arguments.init_from or arguments.encoder,
        image_size=size,
        sk_ratio=arguments.sk_ratio,
        images=len(compared),
        tensorflow=tf.__version__,
        **differences,
    )


if __name__ == "__main__":
    main()
