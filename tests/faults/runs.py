"""Small runs in separate processes, to be killed, stopped and restarted."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

from tests.small_runs import SHAPE
from tf_simclr.checkpoints import load_encoder_from

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
    **SHAPE,
    "train_steps": 60,
    "checkpoint_steps": 7,
    "log_steps": 1,
    "on_trouble": "warn",
}
# A learning rate and temperature at which this tiny network is not chaotic: at the usual ones, a
# difference of 1e-7 between two and four replicas grows to 1e-2 in eight steps.
TEN = {
    "train_steps": 10,
    "train_batch_size": 512,
    "warmup_epochs": 3.9,
    "learning_rate": 0.001,
    "temperature": 0.5,
    "checkpoint_steps": 5,
}
_SECONDS = 300.0


class Process:
    """Runs the binary with the small run's settings and writes its output to a file.

    Attributes:
      output: the file with standard output and standard error.
    """

    def __init__(self, workdir, output, env=None, prelude: str = "", **settings):
        """Args: prelude: Python code to run before the binary; settings: None leaves a flag out."""
        program = f"{prelude}\nfrom tf_simclr.main import cli\ncli()"
        flags = {"mode": "pretrain", "workdir": workdir, **SMALL, **settings}
        self.output = pathlib.Path(output)
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        with self.output.open("a") as file:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    program,
                    *(f"--{k}={v}" for k, v in flags.items() if v is not None),
                ],
                cwd=ROOT,
                env={**environment, **(env or {})},
                stdout=file,
                stderr=file,
            )
        self.send = self._process.send_signal

    def running(self) -> bool:
        return self._process.poll() is None

    def end(self, seconds: float = _SECONDS) -> int:
        """Waits for the process to end; returns the exit code."""
        return self._process.wait(seconds)

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition) -> bool:
        """Whether the condition became true before the process ended; polled every 0.5 ms."""
        deadline = time.monotonic() + _SECONDS
        while self.running():
            if condition():
                return True
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.0005)
        return False


def run(workdir, output, **settings) -> str:
    """Runs to the end, which must succeed; returns the output."""
    process = Process(workdir, output, **settings)
    assert process.end() == 0, process.said()
    return process.said()


def steps_logged(workdir) -> int:
    path = pathlib.Path(workdir) / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def metrics(workdir) -> list[dict]:
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(workdir) -> list[float]:
    return [line["loss"] for line in metrics(workdir)]


def assert_same_weights(workdir, other) -> None:
    a, b = (load_encoder_from(str(w)).get_weights() for w in (workdir, other))
    for one, two in zip(a, b):
        np.testing.assert_array_equal(one, two)


def clusters(hosts: int = 2) -> list[dict[str, str]]:
    """TF_CONFIG for each of several processes on this machine."""
    sockets = [socket.socket() for _ in range(hosts)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            )
        }
        for index in range(hosts)
    ]
