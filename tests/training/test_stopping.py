"""Signals and the end of the time: what the loop is told, and what a second signal does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.small_runs import run
from tf_simclr.errors import Stopped
from tf_simclr.training import stopping
from tf_simclr.training.stopping import StopRequest

_WAITING = """
import hashlib, time
from tf_simclr.training.stopping import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while stop.reason is None:
        time.sleep(0.01)
    print(stop.reason, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # Like a step: calls no handler till it ends.
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_at_once(number):
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name} was received\n"
    time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert f"{number.name}: stopping after this step, with all saved" in said


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        assert stop.reason is None
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_time_is_the_process_s(monkeypatch):
    assert StopRequest(0.0).reason is None
    monkeypatch.setattr(stopping, "STARTED", time.monotonic() - 90)
    assert StopRequest(2.0).reason is None
    assert StopRequest(1.25).reason == "--max_run_time=1.25 minutes are over"


def test_a_run_whose_time_is_over_saves_and_goes_on_later(tmp_path):
    settings = {"train_steps": 3, "warmup_epochs": 0}
    for step in (1, 2):
        with pytest.raises(Stopped, match=f"stopped at step {step} of 3, which is saved"):
            run(tmp_path / "w", max_run_time=1e-9, **settings)
        assert (tmp_path / "w" / "checkpoints" / f"ckpt-{step}.index").exists()
