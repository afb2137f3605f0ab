"""Images per second of --mode=embed's table, and of `encoder.predict` on the same images in memory.

    python benchmarks/embed.py [--images=50000] [--encoder=resnet18] [--width_multiplier=1]

Images have the size of CIFAR-10's, 32 pixels. "cpu" is the time of all cores per image, in ms,
which other programs on the machine hardly change.
"""

from __future__ import annotations

import os
import shutil
import statistics
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


def measured(work, count: int, cpu: list[float]):
    """A contestant: its images per second; the ms of all cores per image are added to `cpu`."""

    def rate() -> float:
        start, used = time.perf_counter(), time.process_time()
        work()
        cpu.append(1000 * (time.process_time() - used) / count)
        return count / (time.perf_counter() - start)

    return rate


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

    with tempfile.TemporaryDirectory() as scratch:

        def embed():
            folder = os.path.join(scratch, "table")
            shutil.rmtree(folder, ignore_errors=True)
            sizes = {"image_size": SIDE, "batch_size": BATCH}
            write_table(encoder, source, folder, kind="parquet", **sizes)

        def predict():
            encoder.predict(floats, batch_size=BATCH, verbose=0)

        encoder.predict(floats[:BATCH], verbose=0)  # Compiles.
        cpu = {"embed": [], "predict": []}
        contestants = {"embed": embed, "predict": predict}
        figures = in_turns(
            {name: measured(work, count, cpu[name]) for name, work in contestants.items()},
            arguments.runs,
        )
    cpu = {name: statistics.median(values) for name, values in cpu.items()}
    report(
        benchmark="embed",
        unit="images/s",
        images=count,
        encoder=arguments.encoder,
        width_multiplier=arguments.width_multiplier,
        **figures,
        ratio=figures["embed"] / figures["predict"],
        embed_cpu=cpu["embed"],
        predict_cpu=cpu["predict"],
        ratio_cpu=cpu["predict"] / cpu["embed"],
    )


if __name__ == "__main__":
    main()
