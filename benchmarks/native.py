"""The C kernels against TensorFlow's operations, for cropping and finishing 224-pixel views.

    python benchmarks/native.py

Milliseconds per pair of views: two crops of a photograph, resized and mirrored as drawn, and
finished. Needs a C compiler.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import tensorflow as tf

import tf_simclr
from benchmarks.timing import flags, in_turns, report
from tf_simclr import native
from tf_simclr.augment import views
from tf_simclr.data import pipeline
from tf_simclr.data.draws import ViewOptions, draw_views

SIZE, PAIRS = 224, 32


def timed(step, batch):
    step(batch)

    def milliseconds() -> float:
        start = time.perf_counter()
        step(batch)
        return (time.perf_counter() - start) / PAIRS * 1e3

    return milliseconds


def cropping(kernels):
    """A graph that crops both views of each pair, one after the other."""
    options = ViewOptions()
    photograph = tf.constant(np.random.default_rng(0).integers(0, 256, [375, 500, 3], np.uint8))

    def one(drawn):
        uniforms, flips = drawn
        return pipeline._crops(photograph, uniforms, flips, SIZE, options, kernels)

    @tf.function
    def crop(drawn):
        return tf.map_fn(one, drawn, fn_output_signature=tf.uint8, parallel_iterations=1)

    return crop


def main() -> None:
    arguments = flags(__doc__).parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    kernels = native.kernels()
    if not kernels:
        sys.exit("No C compiler: see the warning above.")
    images = np.random.default_rng(0).integers(0, 256, [PAIRS, SIZE, SIZE, 3], np.uint8)
    source = tf_simclr.array_source(images)
    batch = next(iter(tf_simclr.two_view_dataset(source, batch_size=PAIRS, image_size=SIZE)))
    drawn = draw_views(ViewOptions(), 3, PAIRS, 0, 0)
    crops = (drawn["crop"], drawn["flip"])
    contestants = {
        "crop_ours": timed(cropping(kernels), crops),
        "crop_tensorflow": timed(cropping(None), crops),
        "finish_ours": timed(tf.function(tf_simclr.finish_views), batch),
        "finish_tensorflow": timed(tf.function(views._finish_together), batch),
    }
    figures = in_turns(contestants, arguments.runs)
    ratios = {
        f"{name}_ratio": figures[f"{name}_tensorflow"] / figures[f"{name}_ours"]
        for name in ("crop", "finish")
    }
    report(benchmark="native", unit="ms a pair", threads=1, **figures, **ratios)


if __name__ == "__main__":
    main()
