"""The losses are the same on 1, 2, 4 and 8 replicas, in both precisions, with and without XLA."""

from __future__ import annotations

import numpy as np
import pytest

from tests.faults.runs import TEN, Process, losses, run

TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 2e-2}  # bfloat16 has 8 bits: 4e-3 per rounding.


@pytest.mark.slow
def test_losses_do_not_depend_on_replicas_or_xla(tmp_path, capsys):
    rows, worst = [], []
    for precision in TOLERANCE:
        settings = {**TEN, "train_batch_size": 256, "warmup_epochs": 1.9, "precision": precision}
        run(tmp_path / precision, tmp_path / "log", **settings)
        reference = np.array(losses(tmp_path / precision))
        for compiled in (False, True):
            row = [f"{precision:<16}{'on' if compiled else 'off':<5}"]
            for replicas in (1, 2, 4, 8):
                name = f"{precision}-{compiled}-{replicas}"
                where = {"jit_compile": compiled}
                if replicas > 1:
                    where.update(strategy="mirrored", virtual_cpus=replicas)
                process = Process(tmp_path / name, tmp_path / "log", **settings, **where)
                assert process.end() == 0, process.said()
                difference = np.max(np.abs(np.array(losses(tmp_path / name)) / reference - 1))
                row.append(f"{difference:.1e}")
                worst.append((difference, TOLERANCE[precision], name))
            rows.append("".join(f"{cell:<10}" for cell in row))
    with capsys.disabled():
        print("\nlargest relative difference of ten losses from one replica without XLA")
        print(f"{'precision':<16}{'XLA':<5}" + "".join(f"{n:<10}" for n in (1, 2, 4, 8)))
        print("\n".join(rows))
    for difference, tolerance, name in worst:
        assert difference <= tolerance, name
