"""In a long run, memory, open files and traced functions do not grow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.faults.runs import run

_PROBE = """
import gc, json, os
from tf_simclr import workdir
original = workdir.Workdir.log_metrics
def log_metrics(self, metrics):
    original(self, metrics)
    from tensorflow.python.framework.func_graph import FuncGraph
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    graphs = sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())
    with open(os.path.join(self.path, "soak.jsonl"), "a") as file:
        files = len(os.listdir("/proc/self/fd"))
        line = {"step": metrics["step"], "memory": pages * 4096, "files": files, "graphs": graphs}
        file.write(json.dumps(line) + "\\n")
workdir.Workdir.log_metrics = log_metrics
"""


@pytest.mark.slow
def test_two_thousand_steps_take_no_more_than_five_hundred(tmp_path, capsys):
    settings = {"train_steps": 2000, "log_steps": 20, "checkpoint_steps": 100}
    run(tmp_path / "w", tmp_path / "log", prelude=_PROBE, **settings)
    lines = [json.loads(line) for line in (tmp_path / "w" / "soak.jsonl").read_text().splitlines()]
    quarters = np.array_split(lines, 4)
    memory = [np.mean([line["memory"] for line in quarter]) for quarter in quarters]
    settled = [line for line in lines if line["step"] > 500]
    with capsys.disabled():
        growth = memory[3] / memory[1] - 1
        print(f"\nsoak: MiB by quarter {np.round(np.array(memory) / 2**20, 1)}, {growth:+.2%}")
        print({key: (settled[0][key], settled[-1][key]) for key in ("files", "graphs")})
    assert len(lines) == 100
    assert memory[3] <= 1.02 * memory[1]
    assert len({line["files"] for line in settled}) == 1
    assert len({line["graphs"] for line in settled}) == 1
