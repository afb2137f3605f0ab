"""One run at a time in a workdir; a run that died locks nobody out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from tests.small_runs import contents, run
from tf_simclr.errors import UserError
from tf_simclr.workdir import lock
from tf_simclr.workdir.lock import locked


def test_a_second_run_is_told_of_the_first(tmp_path):
    with locked(str(tmp_path / "w")):
        before = contents(tmp_path)
        with pytest.raises(UserError, match=f"in use by another run .process {os.getpid()} on "):
            run(tmp_path / "w")
        assert contents(tmp_path) == before
    assert not (tmp_path / "w").exists()  # Nothing was written.
    with locked(str(tmp_path / "w")):
        pass


def test_evaluating_needs_no_lock(tmp_path):
    run(tmp_path / "w", train_steps=1, warmup_epochs=0)
    with locked(str(tmp_path / "w")):
        run(tmp_path / "w", mode="knn_eval", knn_k=5, baselines=False)
        with pytest.raises(UserError, match="in use"):
            run(tmp_path / "w", mode="export")


_HOLDING = """
import sys, time
from tf_simclr.workdir.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_killed_run_leaves_a_lock_that_holds_nobody(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on "), locked(str(tmp_path)):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    with locked(str(tmp_path)):
        pass
    assert not (tmp_path / "lock").exists()


@pytest.fixture
def quick_lease(monkeypatch):
    monkeypatch.setattr(lock, "_RENEWED_EVERY", 0.2)
    monkeypatch.setattr(lock, "_STALE_AFTER", 0.8)


def test_storage_without_locks_has_leases(quick_lease):
    workdir = "ram://runs/leased"
    with locked(workdir):
        with pytest.raises(UserError, match="in use by another run .process"), locked(workdir):
            pass
        assert tf.io.gfile.exists(workdir + "/lock")
    assert not tf.io.gfile.exists(workdir + "/lock")


def test_a_stale_lease_is_taken(quick_lease):
    workdir = "ram://runs/stale"
    tf.io.gfile.makedirs(workdir)
    with tf.io.gfile.GFile(workdir + "/lock", "w") as file:
        file.write("{damaged")
    began = time.monotonic()
    with locked(workdir):
        assert 0.7 < time.monotonic() - began
    assert not tf.io.gfile.exists(workdir + "/lock")


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (str(tmp_path / "file" / "w"), "nowhere://a/b"):
        with pytest.raises(UserError, match="--workdir=.* cannot be written"), locked(path):
            pass
