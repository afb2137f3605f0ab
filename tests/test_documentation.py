"""Every block of README and BUILD is run here, or says what it needs that a test has not.

A block that is not run is preceded by a line `<!-- needs: ... -->`. Any other block of Python is
executed, any other block of shell must hold commands of the binary only, which are run in this
process. What trains is marked slow. Both use small data and the replacements of `SMALLER`;
commands get the flags of `TINY` too. Commands are parsed in all blocks, marked or not.
"""

from __future__ import annotations

import pathlib
import re
import shlex

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import tf_simclr
from tf_simclr import flag_defs, tasks
from tf_simclr.distribute import make_strategy

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ("README.md", "BUILD.md")
SMALLER = {
    "batch_size=128": "batch_size=8",
    "own.batch(128": "own.batch(8",
    'build_encoder("resnet18", image_size=224': 'build_encoder("resnet18", width_multiplier=0.25, '
    "image_size=32",
    "image_size=224": "image_size=32",
    "steps_per_epoch=100, epochs=10": "steps_per_epoch=1, epochs=1",
}
MADE = "--flagfile=mine.flags"  # By the doctor, in the command before.
TINY = {
    "doctor": ["--train_batch_size=4", "--width_multiplier=0.125", "--image_size=32"],
    "pretrain": ["--train_steps=1", "--train_batch_size=8", "--width_multiplier=0.25"],
    "knn_eval": [],
    "linear_eval": ["--labels_per_class=1", "--label_draws=1", "--l2_sweep=1"],
    "finetune": ["--train_steps=1", "--train_batch_size=8"],
    "embed": [],
    "search": [],
    "duplicates": [],
}


def blocks(page):
    """(number of its first line, language, text, what it needs or None) of each fenced block."""
    text = (ROOT / page).read_text()
    for found in re.finditer(
        r"(<!-- needs: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", text, re.S | re.M
    ):
        yield text[: found.start()].count("\n") + 1, found[3], found[4], found[2]


BLOCKS = [(f"{page}:{line}", *rest) for page in PAGES for line, *rest in blocks(page)]


def commands(text):
    """The arguments of each command of the binary in a block of shell."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.split("-m tf_simclr", 1)[1], comments=True)
        for line in lines
        if "python -m tf_simclr " in line
    ]


def only(*languages):
    chosen = [b for b in BLOCKS if b[1] in languages and b[3] is None]
    return pytest.mark.parametrize(
        "text",
        [
            pytest.param(text, id=where, marks=[pytest.mark.slow] * (".fit(" in text))
            for where, _, text, _ in chosen
        ],
    )


def test_every_block_is_run_or_says_what_it_needs():
    unmarked = [(where, language, text) for where, language, text, needs in BLOCKS if not needs]
    for where, language, text in unmarked:
        assert language in ("sh", "python"), f"{where}: mark it with <!-- needs: ... -->"
        if language == "sh":
            whole = text.replace("\\\n", " ").splitlines()
            assert all("python -m tf_simclr " in line for line in whole), f"{where}: mark it"
    assert {language for _, language, _ in unmarked} == {"sh", "python"}


@pytest.mark.parametrize("where", [b[0] for b in BLOCKS if b[1] == "sh"])
def test_every_command_of_the_binary_parses(where, monkeypatch):
    monkeypatch.chdir(ROOT)  # Where the flagfiles are.
    for arguments in commands(next(b[2] for b in BLOCKS if b[0] == where)):
        arguments = [argument for argument in arguments if argument != MADE]
        values = flags.FlagValues()
        flag_defs.define_flags(values)
        assert len(values(["tf_simclr", *arguments])) == 1, where


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with path/to/photos, path/to/labelled and runs/cifar10/encoder."""
    folder = tmp_path_factory.mktemp("documentation")
    draws = np.random.default_rng(0)
    places = ["photos", *(f"labelled/{s}/{c}" for s in ("train", "test") for c in "ab")]
    for place in places:
        (folder / "path/to" / place).mkdir(parents=True)
        for i in range(8):
            pixels = draws.integers(0, 256, [40, 40, 3], np.uint8)
            name = folder / "path/to" / place / f"{i}.png"
            name.write_bytes(tf.io.encode_png(pixels).numpy())
    small = tf_simclr.build_encoder("resnet18", image_size=32, width_multiplier=0.25)
    tf_simclr.export_encoder(small, str(folder / "runs/cifar10/encoder"))
    return folder


def smaller(text):
    for old, new in SMALLER.items():
        text = text.replace(old, new)
    return text


@only("python")
def test_python(text, folder, monkeypatch):
    monkeypatch.chdir(folder)
    images = np.random.default_rng(0).random([16, 32, 32, 3], np.float32)
    names = {"images": images, "labels": np.arange(16) % 10, "augment": tf.image.flip_left_right}
    exec(compile(smaller(text), "block", "exec"), names)


@pytest.mark.slow  # Runs of the binary.
def test_commands(folder, monkeypatch):
    """In the order of the page, as later ones need the runs of earlier ones."""
    monkeypatch.chdir(folder)
    ran = []
    for _, language, text, needs in BLOCKS:
        for arguments in commands(smaller(text)) if language == "sh" and not needs else []:
            values = flags.FlagValues()
            flag_defs.define_flags(values)
            mode = next(a for a in arguments if a.startswith("--mode=")).removeprefix("--mode=")
            flag_defs.parse(["tf_simclr", *arguments, *TINY[mode]], values)
            tasks.run(flag_defs.config_from_flags(values), make_strategy("one_device"))
            ran.append(mode)
    assert sorted(ran) == sorted(TINY)
