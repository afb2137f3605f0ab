"""The doctor's estimate of a training step's memory, against the memory that a step takes.

    python benchmarks/step_memory.py

In GiB, for plain, micro-batched and rematerialised steps. Each is measured in a separate process,
as the peak resident memory minus that before the model was built.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np

import tf_simclr
from benchmarks.large_batch import batch_of, step_of
from benchmarks.memory import figures_of, peak_mib, resident_mib
from benchmarks.timing import flags, report
from tf_simclr.config import Config
from tf_simclr.tasks import build
from tf_simclr.tasks.doctor import Need

# Encoder, pixels, batch, options of the step.
CASES = {
    "resnet18_32px_64": ("resnet18", 32, 64, {}),
    "resnet18_32px_256": ("resnet18", 32, 256, {}),
    "resnet18_32px_256_micro_32": ("resnet18", 32, 256, {"micro_batch_size": 32}),
    "resnet18_32px_256_rematerialized": ("resnet18", 32, 256, {"rematerialize": True}),
    "resnet50_224px_8": ("resnet50", 224, 8, {}),
}


def estimate_gib(encoder: str, size: int, images: int, options: dict) -> float:
    """The GiB that --mode=doctor prints for such a run."""
    config = Config(
        mode="doctor",
        encoder=encoder,
        image_size=size,
        train_batch_size=images,
        train_steps=100,
        warmup_epochs=0,
        use_blur=size > 32,
        **options,
    )
    source = tf_simclr.array_source(np.zeros([images, 8, 8, 3], np.uint8))
    need = Need.of(config, source, build.plan_of(config, images, 1))
    return need.bytes(images, config.micro_batch_size or images) / 2**30


def measured_gib(encoder: str, size: int, images: int, options: dict) -> float:
    batch = batch_of(images, size)
    before = resident_mib()
    step_of(encoder, size, **options)(batch)
    return (peak_mib() - before) / 1024


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--measure", help="a case, as JSON: prints its measured GiB and no more")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measured_gib(*json.loads(arguments.measure)))
        return
    figures = {}
    for name, case in CASES.items():
        figures[f"{name}_estimated"] = estimate_gib(*case)
        [figures[f"{name}_measured"]] = figures_of(__file__, f"--measure={json.dumps(case)}")
    report(benchmark="step_memory", unit="GiB", cores=os.cpu_count(), **figures)


if __name__ == "__main__":
    main()
