"""The cost of `--deterministic`: pretraining steps and their data, with and without it.

    python benchmarks/deterministic.py [--runs=5]

ResNet-18 on 32 pixels, batches of 128 images from the pipeline, LARS. TensorFlow's switch applies
to a whole process, so each figure comes from a separate process; the two take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from benchmarks.timing import flags, in_turns, report

PAIRS, SIZE, IMAGES, STEPS = 128, 32, 1024, 12


def step_milliseconds(deterministic: bool) -> float:
    """Milliseconds of a step with the wait for its batch, after two warm-up steps."""
    import numpy as np
    import tensorflow as tf

    import tf_simclr
    from tf_simclr.distribute import enable_determinism

    if deterministic:
        enable_determinism(0)
    rng = np.random.default_rng(0)
    source = tf_simclr.array_source(rng.integers(0, 256, [IMAGES, SIZE, SIZE, 3], np.uint8))
    batches = iter(tf_simclr.two_view_dataset(source, batch_size=PAIRS, image_size=SIZE))
    model = tf_simclr.SimCLR(tf_simclr.build_encoder("resnet18", image_size=SIZE))
    model.compile(tf_simclr.LARS(0.1, weight_decay=1e-4))
    step = tf.function(model.train_step)
    for _ in range(2):
        float(step(next(batches))["loss"])
    start = time.perf_counter()
    for _ in range(STEPS):
        float(step(next(batches))["loss"])
    return 1e3 * (time.perf_counter() - start) / STEPS


def in_a_process(which: str) -> float:
    command = [sys.executable, __file__, f"--only={which}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--only", choices=("deterministic", "usual"), help="one figure, here")
    arguments = parser.parse_args()
    if arguments.only:
        print(step_milliseconds(arguments.only == "deterministic"))
        return
    contestants = {name: lambda n=name: in_a_process(n) for name in ("deterministic", "usual")}
    figures = in_turns(contestants, arguments.runs)
    ratio = figures["deterministic"] / figures["usual"]
    report(benchmark="deterministic", unit="ms", cores=os.cpu_count(), **figures, ratio=ratio)


if __name__ == "__main__":
    main()
