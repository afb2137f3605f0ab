"""NT-Xent forward and backward: time, and memory beyond that of the embeddings.

    python benchmarks/nt_xent.py [--peer=DIR] [--pairs=512,4096] [--largest=65536]

Compares ours with keras-cv's `SimCLRLoss`, our own form without tiles and, given `--peer` (the
directory `tf2/` of a checkout of google-research/simclr), its `objective.py`. `--largest` runs ours
once at a size where the others need hundreds of GiB; 0: it does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import tensorflow as tf

from benchmarks.memory import figures_of, forget_peak, peak_mib, resident_mib
from benchmarks.timing import flags, in_turns, report
from tf_simclr import losses
from tf_simclr.losses import negatives

WIDTH, TEMPERATURE = 128, 0.1


def contestants(peer: str | None) -> dict:
    """{name: loss of (z_a, z_b)}."""

    def keras_cv(z_a, z_b):
        from keras_cv.losses import SimCLRLoss

        return SimCLRLoss(TEMPERATURE)(z_a, z_b)

    def untiled(z_a, z_b):
        least, negatives._STREAM_FROM = negatives._STREAM_FROM, sys.maxsize
        try:
            return losses.nt_xent(z_a, z_b, TEMPERATURE, ranks=False).loss
        finally:
            negatives._STREAM_FROM = least

    found = {
        "ours": lambda a, b: losses.nt_xent(a, b, TEMPERATURE, ranks=False).loss,
        "untiled": untiled,
        "keras_cv": keras_cv,
    }
    if peer:
        sys.path.insert(0, peer)
        import objective

        found["peer"] = lambda a, b: objective.add_contrastive_loss(
            tf.concat([a, b], 0), temperature=TEMPERATURE
        )[0]
    return {name: with_gradient(loss) for name, loss in found.items()}


def with_gradient(loss):
    @tf.function
    def run(z_a, z_b):
        with tf.GradientTape() as tape:
            tape.watch([z_a, z_b])
            value = loss(z_a, z_b)
        return value, tape.gradient(value, [z_a, z_b])

    return run


def embeddings(pairs: int):
    z_a = tf.random.stateless_normal([pairs, WIDTH], seed=[0, 0])
    return z_a, z_a + tf.random.stateless_normal([pairs, WIDTH], seed=[0, 1])


def milliseconds(run, z_a, z_b) -> float:
    """Milliseconds per call, averaged over half a second."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.5:
        run(z_a, z_b)[0].numpy()
        calls += 1
    return 1e3 * (time.perf_counter() - start) / calls


def extra_mebibytes(run, z_a, z_b) -> float:
    """Increase of the process's peak resident memory by a first call (Linux)."""
    tf.function(tf.identity, jit_compile=True)(z_a)  # Loads XLA's compiler, as any step does.
    run(*embeddings(8))
    run.get_concrete_function(z_a, z_b)
    forget_peak()
    before = resident_mib()
    run(z_a, z_b)[0].numpy()
    return peak_mib() - before


def memory_of(name: str, pairs: int, peer: str | None) -> float:
    """Runs `extra_mebibytes` in a separate process."""
    command = [__file__, f"--memory-of={name}", f"--pairs={pairs}"]
    [figure] = figures_of(*command, *([f"--peer={peer}"] if peer else []))
    return figure


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--pairs", default="512,4096")
    parser.add_argument("--largest", type=int, default=65536)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    losses_of = contestants(arguments.peer)
    sizes = [int(size) for size in arguments.pairs.split(",")]
    if arguments.memory_of:
        print(extra_mebibytes(losses_of[arguments.memory_of], *embeddings(sizes[0])))
        return
    figures = {}
    for pairs in sizes:
        z = embeddings(pairs)
        for run in losses_of.values():
            run(*z)
        timed = {n: lambda run=run, z=z: milliseconds(run, *z) for n, run in losses_of.items()}
        times = in_turns(timed, arguments.runs)
        memory = {name: memory_of(name, pairs, arguments.peer) for name in losses_of}
        figures.update({f"{name}_{pairs}_ms": value for name, value in times.items()})
        figures.update({f"{name}_{pairs}_mib": value for name, value in memory.items()})
        for other in set(times) - {"ours"}:
            figures[f"ratio_{other}_{pairs}"] = times[other] / times["ours"]
            figures[f"memory_ratio_{other}_{pairs}"] = memory["ours"] / memory[other]
    if arguments.largest:
        start = time.perf_counter()
        figures[f"ours_{arguments.largest}_mib"] = memory_of("ours", arguments.largest, None)
        figures[f"ours_{arguments.largest}_s"] = time.perf_counter() - start
    report(benchmark="nt_xent", cores=os.cpu_count(), **figures)


if __name__ == "__main__":
    main()
