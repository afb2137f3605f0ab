"""Time and peak memory of micro-batched training steps on batches that do not fit in memory.

    python benchmarks/large_batch.py [--cases=small,large]

Each case runs one step at the large batch in a separate process and reports the peak resident
memory, including TensorFlow's own. At a batch where both fit, it also times micro-batched and plain
steps in turns. Cases: small, ResNet-18 on 32 pixels, batch 8192; large, ResNet-50 on 224 pixels,
batch 256.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import tensorflow as tf

import tf_simclr
from benchmarks.memory import figures_of, peak_mib
from benchmarks.timing import flags, in_turns, report

# Encoder, pixels, large batch, batch where both fit, images per micro-batch.
CASES = {"small": ("resnet18", 32, 8192, 256, 128), "large": ("resnet50", 224, 256, 16, 8)}


def batch_of(images: int, size: int):
    rng = np.random.default_rng(0)
    source = tf_simclr.array_source(rng.integers(0, 256, [images, size, size, 3], np.uint8))
    dataset = tf_simclr.two_view_dataset(source, batch_size=images, image_size=size, blur=size > 32)
    return next(iter(dataset))


def step_of(encoder: str, size: int, **options):
    """A function that runs a compiled model's training step to its end."""
    model = tf_simclr.SimCLR(tf_simclr.build_encoder(encoder, image_size=size), **options)
    model.compile(tf_simclr.LARS(0.1, weight_decay=1e-4))
    train = tf.function(model.train_step)

    def step(batch):
        return float(train(batch)["loss"])

    step.trace = train.get_concrete_function
    return step


def seconds(step, batch) -> float:
    start = time.perf_counter()
    step(batch)
    return time.perf_counter() - start


def large_step(case: str) -> None:
    """Prints the seconds of one step at the large batch, and the process's peak memory in GiB."""
    encoder, size, images, _, micro = CASES[case]
    batch, step = batch_of(images, size), step_of(encoder, size, micro_batch_size=micro)
    step.trace(batch)
    print(seconds(step, batch), peak_mib() / 1024)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--cases", default="small,large")
    parser.add_argument("--large-step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.large_step:
        large_step(arguments.large_step)
        return
    figures = {}
    for case in arguments.cases.split(","):
        encoder, size, images, both_fit, micro = CASES[case]
        alone = figures_of(__file__, f"--large-step={case}")
        figures[f"{case}_seconds"], figures[f"{case}_gib"] = alone
        batch = batch_of(both_fit, size)
        steps = {
            "plain": step_of(encoder, size),
            "micro": step_of(encoder, size, micro_batch_size=micro),
            "rematerialized": step_of(encoder, size, rematerialize=True),
        }
        for step in steps.values():
            step(batch)
        timed = {
            n: lambda step=step, batch=batch: seconds(step, batch) for n, step in steps.items()
        }
        times = in_turns(timed, arguments.runs)
        per_image = {name: 1e3 * value / both_fit for name, value in times.items()}
        figures.update({f"{case}_{name}_ms_per_image": v for name, v in per_image.items()})
        figures[f"{case}_large_ms_per_image"] = 1e3 * figures[f"{case}_seconds"] / images
        for name in ("micro", "rematerialized"):
            figures[f"ratio_{case}_{name}"] = per_image[name] / per_image["plain"]
    report(benchmark="large_batch", cores=os.cpu_count(), **figures)


if __name__ == "__main__":
    main()
