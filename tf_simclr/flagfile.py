"""The settings of a run as text: an absl flagfile, such as WORKDIR/flags.resolved."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Callable

from tf_simclr.config import FIELDS, Config
from tf_simclr.errors import UserError
from tf_simclr.settings import check, is_path


def recorded(config: Config) -> dict[str, Any]:
    """{name: value} of the settings as a run keeps them.

    Paths are absolute, so that they hold in any working directory; --workdir is left out, so that
    a run's folder can be moved.
    """
    settings = {name: _recorded(field, getattr(config, name)) for name, field in FIELDS.items()}
    del settings["workdir"]
    return settings


def _recorded(field: dataclasses.Field, value: Any) -> Any:
    if not is_path(field, value) or "://" in value:
        return value
    absolute = os.path.abspath(value)
    try:
        check(field, absolute)
    except UserError:  # The working directory has a line break in its name, for example.
        return value
    return absolute


def to_flagfile(config: Config) -> str:
    """The settings of a config as they are `recorded`, as an absl flagfile."""
    lines = ["# Every setting of this run; itself a flagfile."]
    lines += [f"--{name}={value}" for name, value in recorded(config).items()]
    return "\n".join(lines) + "\n"


def from_flagfile(text: str, file: str = "flags.resolved") -> dict[str, Any]:
    """{name: value} of the settings in what `to_flagfile` wrote; unknown names are left out.

    Args:
      text: the content of the flagfile.
      file: its name, for the message.

    Raises:
      UserError: a value is not of its setting's type.
    """
    settings = {}
    for line in text.split("\n"):
        name, equals, value = line.rstrip("\r").partition("=")
        name = name[2:]
        if line.startswith("--") and equals and name in FIELDS:
            settings[name] = _parsed(name, value, file)
    return settings


def from_json(settings: Any, file: str) -> dict[str, Any]:
    """{name: value} of the settings in a JSON file; unknown names and nulls are left out.

    Args:
      settings: what the file holds where the settings should be.
      file: its name, for the message.

    Raises:
      UserError: `settings` is not an object, or a value is not of its setting's type.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{file} has {settings!r} instead of settings; restore the file.")
    return {
        name: _parsed(name, str(value), file)
        for name, value in settings.items()
        if name in FIELDS and value is not None
    }


def _parsed(name: str, value: str, file: str) -> Any:
    kind = str(FIELDS[name].type)  # Its name, as annotations are strings.
    try:
        return _PARSERS[kind](value)
    except (ValueError, KeyError):
        raise UserError(
            f"{file} has --{name}={value}, which is not of type {kind}; correct that line, or "
            "remove it."
        ) from None


_BOOLS = {"True": True, "true": True, "False": False, "false": False}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _BOOLS.__getitem__,
}
