"""The flagfiles that come with the package, found by name in any working directory.

A clone has them in flags/, an installed package in tf_simclr/flags/. Standard library only.
"""

from __future__ import annotations

import os
import pathlib

from tf_simclr.errors import UserError

_PACKAGE = pathlib.Path(__file__).parent
_FOLDERS = (_PACKAGE / "flags", _PACKAGE.parent / "flags")
_FLAG = ("--flagfile", "-flagfile")


def recipes() -> dict[str, str]:
    """{name: path} of the flagfiles, such as "digits_demo"."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
    return {path.stem: str(path) for path in sorted(folder.glob("*.flags"))}


def with_recipes(argv: list[str]) -> list[str]:
    """Replaces the names of recipes after --flagfile by their paths, as absl opens the files.

    Args:
      argv: the program's name and its arguments. `--flagfile=digits_demo`,
        `--flagfile=digits_demo.flags` and `--flagfile=flags/digits_demo.flags` name the same
        recipe. A file of that path in the working directory comes first. Names inside a flagfile
        are not replaced.

    Returns:
      A new list.

    Raises:
      UserError: the value is neither a file nor a recipe.
    """
    replaced, awaits_value = [], False
    for position, argument in enumerate(argv):
        if argument == "--":
            return replaced + argv[position:]
        flag, equals, value = argument.partition("=")
        if awaits_value:
            argument = _path_of(argument)
        elif flag in _FLAG and equals:
            argument = f"{flag}={_path_of(value)}"
        awaits_value = argument in _FLAG and not awaits_value
        replaced.append(argument)
    return replaced


def _path_of(value: str) -> str:
    path = os.path.expanduser(value)
    if not value or (os.path.exists(path) and not os.path.isdir(path)):
        return value
    known = recipes()
    folder, file = os.path.split(value)
    name = file[: -len(".flags")] if file.endswith(".flags") else file
    if folder not in ("", "flags") or name not in known:
        raise UserError(
            f"--flagfile={value} is neither a file nor a recipe. Recipes: {', '.join(known)}."
        )
    return known[name]
