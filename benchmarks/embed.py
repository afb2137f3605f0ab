"""Images per second of --mode=embed's table, and of `encoder.predict` on the same images in memory.

    python benchmarks/embed.py [--images=50000] [--encoder=resnet18] [--width_multiplier=1]

Images have the size of CIFAR-10's, 32 pixels. "mib" is how much the process grew while the tables
were written, after a first one.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np

import tf_simclr
from benchmarks.timing import flags, in_turns, report
from tf_simclr.embeddings import write_table

SIDE, BATCH = 32, 256


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--width_multiplier", type=float, default=1.0)
    arguments = parser.parse_args()
    count = arguments.images
    images = np.random.default_rng(0).integers(0, 256, [count, SIDE, SIDE, 3], np.uint8)
    source = tf_simclr.array_source(images)
    encoder = tf_simclr.build_encoder(
        arguments.encoder, image_size=SIDE, width_multiplier=arguments.width_multiplier
    )
    floats = images.astype(np.float32) / 255

    def embed(folder):
        def rate():
            shutil.rmtree(folder, ignore_errors=True)
            start = time.perf_counter()
            sizes = {"image_size": SIDE, "batch_size": BATCH}
            write_table(encoder, source, folder, kind="parquet", **sizes)
            return count / (time.perf_counter() - start)

        return rate

    def predict():
        start = time.perf_counter()
        encoder.predict(floats, batch_size=BATCH, verbose=0)
        return count / (time.perf_counter() - start)

    encoder.predict(floats[:BATCH], verbose=0)  # Compiles.
    with tempfile.TemporaryDirectory() as scratch:
        rate = embed(os.path.join(scratch, "table"))
        rate()
        before = peak()
        figures = in_turns({"embed": rate, "predict": predict}, arguments.runs)
    report(
        benchmark="embed",
        unit="images/s",
        images=count,
        encoder=arguments.encoder,
        width_multiplier=arguments.width_multiplier,
        **figures,
        ratio=figures["embed"] / figures["predict"],
        mib=peak() - before,
    )


if __name__ == "__main__":
    main()
