"""Finishing views of 224 pixels on a CPU: inside a branch, as we do, and outside, on all its cores.

    python benchmarks/finish_views.py

XLA splits over cores what is outside branches. Milliseconds a view, and their ratio.
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
from tf_simclr.augment import views

PAIRS = 64


@tf.function(jit_compile=True)
def outside(batch):
    return views._in_turn(views._change_one, batch)


def timed(finish, batch):
    finish(batch)

    def milliseconds() -> float:
        start = time.perf_counter()
        finish(batch)
        return (time.perf_counter() - start) / (2 * PAIRS) * 1e3

    return milliseconds


def main() -> None:
    arguments = flags(__doc__).parse_args()
    images = np.random.default_rng(0).integers(0, 256, [PAIRS, 224, 224, 3], np.uint8)
    source = tf_simclr.array_source(images)
    batch = next(iter(tf_simclr.two_view_dataset(source, batch_size=PAIRS, image_size=224)))
    contestants = {
        "ours_ms": timed(tf.function(tf_simclr.finish_views), batch),
        "outside_ms": timed(outside, batch),
    }
    figures = in_turns(contestants, arguments.runs)
    ratio = figures["outside_ms"] / figures["ours_ms"]
    report(benchmark="finish_views", cores=os.cpu_count(), **figures, ratio=ratio)


if __name__ == "__main__":
    main()
