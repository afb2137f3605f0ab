"""What --help and --helpfull print. Uses only the standard library, so help appears at once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import textwrap

from tf_simclr.config import FIELDS
from tf_simclr.errors import BAD_REQUEST
from tf_simclr.modes import MODES
from tf_simclr.recipes import recipes
from tf_simclr.settings import meaning

_SHORT = ("--help", "-help", "-h", "--h", "-?", "--helpshort", "-helpshort")
_FULL = ("--helpfull", "-helpfull")
# The flags that most people set.
_OFTEN_SET = (
    *("workdir", "init_from", "dataset", "data_dir", "image_size", "encoder"),
    *("train_batch_size", "train_epochs", "learning_rate", "temperature"),
)
_FLAGFILE = "Read flags from a file, one per line; or from a recipe: {}."
_EXAMPLES = """\
  {program} --mode=pretrain --workdir=runs/mine \\
    --dataset=folder --data_dir=path/to/photos --encoder=resnet18 --train_batch_size=128
  {program} --mode=knn_eval --workdir=runs/demo"""
_WIDTH = 88


def answer_help(argv: list[str]) -> int | None:
    """Prints the help that a command line asks for.

    Args:
      argv: the program's name and its arguments.

    Returns:
      The exit code; None if it does not ask for help. An empty command line is an error that also
      prints help.
    """
    words = argv[1 : argv.index("--", 1)] if "--" in argv[1:] else argv[1:]
    short, full = (bool(set(words) & set(asking)) for asking in (_SHORT, _FULL))
    if argv[1:] and not (short or full):
        return None
    program = os.path.basename(argv[0])
    program = program if program == "tf-simclr" else "python -m tf_simclr"
    text = _full_help(program) if full else _short_help(program)
    with contextlib.suppress(BrokenPipeError):  # For example from `| head`.
        print(text, file=sys.stdout if argv[1:] else sys.stderr, flush=True)
        return 0 if argv[1:] else BAD_REQUEST
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit.
    return 0


def _short_help(program: str) -> str:
    return "\n".join(
        [
            "SimCLR: pretrain an image encoder on unlabelled images, evaluate it, export it.",
            "",
            f"  {program} --mode=MODE --workdir=DIR [--flagfile=RECIPE] [flags]",
            "",
            "Modes:",
            *(_entry(name, mode.help, column=16) for name, mode in MODES.items()),
            "",
            "Common flags (--helpfull lists all):",
            *(_entry(f"--{name}", _with_default(FIELDS[name]), column=22) for name in _OFTEN_SET),
            _entry("--flagfile", _FLAGFILE.format(", ".join(recipes())), column=22),
            "",
            "Examples:",
            _EXAMPLES.format(program=program),
        ]
    )


def _full_help(program: str) -> str:
    lines = [_short_help(program)]
    group = None
    for name, field in FIELDS.items():
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", f"{group}:"]
        lines.append(_entry(f"--{name}", _with_default(field), column=34))
    for mode in MODES:
        if MODES[mode].defaults:
            defaults = " ".join(f"--{name}={value}" for name, value in MODES[mode].defaults.items())
            lines += ["", f"Defaults of --mode={mode}:", _entry("", defaults, column=4)]
    return "\n".join(lines)


def _with_default(field: dataclasses.Field) -> str:
    text = meaning(field)
    return text if field.default == "" else f"{text} Default: {field.default}."


def _entry(name: str, text: str, column: int) -> str:
    """A name with its text wrapped in a column."""
    lines = textwrap.wrap(text, _WIDTH - column, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), " " * column).replace(
        " " * column, f"  {name}".ljust(column), 1
    )
