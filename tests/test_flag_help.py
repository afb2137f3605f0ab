"""--help and its kin: at once, with exit code 0, and whole."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from tf_simclr.config import Config
from tf_simclr.flag_help import answer_help
from tf_simclr.modes import MODES

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("asking", ["--help", "-h", "-?", "--helpshort", "-help"])
def test_help_shows_modes_flags_and_examples(asking, capsys):
    assert answer_help(["/bin/tf-simclr", "--mode=pretrain", asking]) == 0
    said = capsys.readouterr().out
    for name, mode in MODES.items():
        assert f"  {name:<14}{mode.help}\n" in said  # One line.
    for flag in ("workdir", "dataset", "data_dir", "image_size", "encoder", "learning_rate"):
        assert f"  --{flag} " in said
    assert "--helpfull" in said and said.count("  tf-simclr --mode=") == 3
    assert len(said.splitlines()) <= 45 and max(map(len, said.splitlines())) <= 90


def test_helpfull_shows_every_flag_with_its_group(capsys):
    assert answer_help(["tf_simclr", "--helpfull"]) == 0
    said = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"  --{field.name} " in said and f"\n{field.metadata['group']}:\n" in said


def test_no_argument_at_all_shows_help_as_a_mistake(capsys):
    assert answer_help(["tf_simclr"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "--mode=MODE --workdir=DIR" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workdir=w"],
        ["--workdir=--help"],
        ["--", "--help"],
        ["--workdir=w", "--", "-h"],
        ["help"],
    ],
)
def test_other_command_lines_are_left_alone(arguments, capsys):
    assert answer_help(["tf_simclr", *arguments]) is None
    assert capsys.readouterr().out == ""


SCRIPT = """
import sys
from tf_simclr.main import cli
try:
    cli()
finally:
    assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--helpfull"], ["-h", "--zzz"], []])
def test_the_binary_answers_without_tensorflow(arguments):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == (0 if arguments else 2), done.stderr
    assert "Modes:" in (done.stdout if arguments else done.stderr)
    assert "Traceback" not in done.stderr


def test_a_reader_may_stop_reading():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--helpfull"], cwd=ROOT, stdout=writing, stderr=-1, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
