"""The settings of a run as text: an absl flagfile, such as WORKDIR/flags.resolved."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_simclr.config import Config
from tf_simclr.errors import UserError


def to_flagfile(config: Config) -> str:
    """The settings as an absl flagfile; without --workdir, so that a run's folder can be moved."""
    lines = ["# Every setting of this run; itself a flagfile."]
    for field in dataclasses.fields(config):
        if field.name != "workdir":
            lines.append(f"--{field.name}={getattr(config, field.name)}")
    return "\n".join(lines) + "\n"


def from_flagfile(text: str) -> dict[str, Any]:
    """{name: value} of the settings in what `to_flagfile` wrote; unknown names are left out.

    Raises:
      UserError: a value is not of its setting's type.
    """
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    parse = {"str": str, "int": int, "float": float, "bool": _BOOLS.__getitem__}
    settings = {}
    for line in text.split("\n"):
        name, equals, value = line.rstrip("\r").partition("=")
        name = name[2:]
        if line.startswith("--") and equals and name in types:
            try:
                settings[name] = parse[types[name]](value)
            except (ValueError, KeyError):
                raise UserError(
                    f"flags.resolved has --{name}={value}, which is no {types[name]}; mend that "
                    "line, or remove it."
                ) from None
    return settings


_BOOLS = {"True": True, "true": True, "False": False, "false": False}
