"""Runs that are killed, stopped, or run out of disk end with the result of an unbroken run."""

from __future__ import annotations

import random
import signal
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from tests.faults.runs import Process, assert_same_weights, losses, run, steps_logged
from tf_simclr.errors import STOPPED

MOMENTS = ("step", "save", "export")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder / "w", folder / "log")
    return folder / "w"


def interrupt(folder, moment: str, number: signal.Signals, seed: int) -> Process:
    """Starts a run and sends a signal at a random step, in a random save, or in the export."""
    draw = random.Random(seed)
    workdir = folder / "w"
    process = Process(workdir, folder / "log")
    step = draw.randint(1, 55)
    assert process.wait_for(lambda: steps_logged(workdir) >= (59 if moment == "export" else step))
    if moment == "save":
        assert process.wait_for(lambda: any((workdir / "checkpoints").glob("tmp-*")))
    elif moment == "export":
        assert process.wait_for((workdir / "encoder.new").exists)
    process.wait_for(lambda: draw.random() < 0.02)  # Some milliseconds.
    process.send(number)
    return process


def check_killed(folder, moment, seed, whole):
    process = interrupt(folder, moment, signal.SIGKILL, seed)
    assert process.end() == -signal.SIGKILL
    run(folder / "w", folder / "log")
    assert_same_weights(folder / "w", whole)
    assert losses(folder / "w") == losses(whole)
    assert {p.name for p in (folder / "w").iterdir()} == {p.name for p in whole.iterdir()}


def test_killed_and_started_again(whole, tmp_path):
    check_killed(tmp_path, "save", 0, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_killed_twenty_times(seed, whole, tmp_path):
    check_killed(tmp_path, MOMENTS[seed % 3], seed, whole)


# Only settings that fine-tuning uses.
FINETUNE = {
    **{"mode": "finetune", "encoder": None, "width_multiplier": None, "use_blur": None},
    **{"num_proj_layers": None, "proj_out_dim": None, "optimizer": "momentum"},
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_fine_tuning_killed_and_started_again(seed, whole, tmp_path):
    run(tmp_path / "whole", tmp_path / "log", init_from=whole, **FINETUNE)
    process = Process(tmp_path / "w", tmp_path / "log", init_from=whole, **FINETUNE)
    step = random.Random(seed).randint(8, 55)
    assert process.wait_for(lambda: steps_logged(tmp_path / "w") >= step)
    process.send(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    run(tmp_path / "w", tmp_path / "log", init_from=whole, **FINETUNE)
    assert losses(tmp_path / "w") == losses(tmp_path / "whole")
    a, b = (
        tf.keras.models.load_model(tmp_path / name / "classifier.keras").get_weights()
        for name in ("w", "whole")
    )
    for one, other in zip(a, b):
        np.testing.assert_array_equal(one, other)


def check_stopped(folder, number, seed, whole):
    process = interrupt(folder, "step", number, seed)
    assert process.end() == STOPPED, process.said()
    assert "Traceback" not in process.said()
    said = process.said().splitlines()[-1]
    step = int(said.split("stopped at step ")[1].split()[0])
    assert f"{number.name} was received. The same command resumes" in said
    assert (folder / "w" / "checkpoints" / f"ckpt-{step}.index").exists()
    assert steps_logged(folder / "w") == step  # Not at the next checkpoint.
    run(folder / "w", folder / "log")
    assert_same_weights(folder / "w", whole)
    assert losses(folder / "w") == losses(whole)


def test_stopped_and_started_again(whole, tmp_path):
    check_stopped(tmp_path, signal.SIGTERM, 3, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 15))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_many_times(number, seed, whole, tmp_path):
    check_stopped(tmp_path, number, seed, whole)


def mounted(folder) -> bool:
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        return subprocess.run(words, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 10, 29])
def test_a_full_disk_leaves_the_last_checkpoint(step, whole, tmp_path):
    disk = tmp_path / "disk"
    if not mounted(disk):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        process = Process(disk / "w", tmp_path / "log")
        assert process.wait_for(lambda: steps_logged(disk / "w") >= step)
        process.send(signal.SIGSTOP)
        with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        process.send(signal.SIGCONT)
        assert process.end() == 2, process.said()
        assert "Traceback" not in process.said()
        assert "space" in process.said().splitlines()[-1]
        before = step // 7 * 7
        found = sorted(int(p.stem[5:]) for p in (disk / "w" / "checkpoints").glob("ckpt-*.index"))
        assert not found or before <= found[-1] <= before + 7
        (disk / "filler").unlink()
        run(disk / "w", tmp_path / "log")
        assert_same_weights(disk / "w", whole)
        assert losses(disk / "w") == losses(whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_of_a_truncated_checkpoint_the_one_before_is_taken(whole, tmp_path):
    process = Process(tmp_path / "w", tmp_path / "log")
    assert process.wait_for(lambda: steps_logged(tmp_path / "w") >= 23)
    process.send(signal.SIGKILL)
    process.end()
    newest = max((tmp_path / "w" / "checkpoints").glob("*.data-*"), key=lambda p: int(p.stem[5:]))
    newest.write_bytes(newest.read_bytes()[:-1000])
    step = int(newest.stem[5:])
    said = run(tmp_path / "w", tmp_path / "log")
    assert f"Going back to the checkpoint of step {step - 7}: checkpoint file {newest} is" in said
    assert_same_weights(tmp_path / "w", whole)
    assert losses(tmp_path / "w") == losses(whole)
