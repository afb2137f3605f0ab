"""Settings: fields with a meaning and limits, and the check of values against them.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from typing import Any

from tf_simclr.errors import UserError, unknown_name


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float = -math.inf,
    high: float = math.inf,
    positive: bool = False,
    alters_run: bool = True,
    path: bool = False,
    names: tuple[str, ...] = (),
    once: bool = False,
    group: str = "",
) -> Any:
    """A field of Config.

    Args:
      default: its value when not set.
      help: what it means.
      choices, low, high, positive: what it may be.
      alters_run: whether it may not differ when a run is resumed.
      path: whether it is a path: "~" stands for the home folder, and a run records it absolute.
      names: values of a path setting that are names and no paths.
      once: whether it holds for one command and one machine, so that a resumed run forgets it.
      group: the heading under which it is listed.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "positive": positive,
        "alters_run": alters_run,
        "path": path,
        "names": names,
        "once": once,
        "group": group,
    }
    return dataclasses.field(default=default, metadata=metadata)


def is_path(field: dataclasses.Field, value: str) -> bool:
    """Whether a value of this setting is a path, local or with a scheme."""
    return bool(field.metadata["path"] and value and value not in field.metadata["names"])


def meaning(field: dataclasses.Field) -> str:
    """What a setting means, and what it may be."""
    choices = field.metadata["choices"]
    return field.metadata["help"] + (f" One of {', '.join(choices)}." if choices else "")


def group(name: str, **defaults: Any):
    """A `setting` for the fields of a group, with the group's own defaults."""

    def make(*args, **kwargs):
        return setting(*args, group=name, **{**defaults, **kwargs})

    return make


_LARGEST = 2**53  # Steps and sizes beyond have no exact float, and overflow when multiplied.
_UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")  # Control characters, surrogates, line and paragraph ends.


def check(field: dataclasses.Field, value: Any) -> None:
    """Raises UserError where a value is outside its field's choices or limits; names both."""
    limits = field.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise unknown_name(f"--{field.name}", value, limits["choices"])
    if isinstance(value, str):
        # A line break would make two flags of one in flags.resolved.
        if any(unicodedata.category(char) in _UNWRITABLE for char in value):
            raise UserError(
                f"--{field.name} must be text without line breaks, control characters and bytes "
                f"that are not UTF-8; received {value!r}."
            )
        return
    low, high = limits["low"], limits["high"]
    if value > _LARGEST and high == math.inf and field.type == "int":
        raise UserError(f"--{field.name} must be at most {_LARGEST}; received {value!r}.")
    if limits["positive"]:
        fits, rule = 0 < value < math.inf, "positive"
    elif high == math.inf:
        fits, rule = value >= low and value != math.inf, f"at least {low:g}"
    else:
        fits, rule = low <= value <= high, f"from {low:g} to {high:g}"
    if not fits:
        raise UserError(f"--{field.name} must be {rule}; received {value!r}.")


def label_counts(text: str) -> tuple[int | None, ...]:
    """The numbers of --labels_per_class; None means all.

    Raises:
      UserError: it is no list of such numbers.
    """
    counts = []
    for word in text.split(","):
        word = word.strip()
        if word != "all" and not (word.isdecimal() and len(word) < 10 and int(word) > 0):
            raise UserError(
                "--labels_per_class is a list of positive numbers and 'all', such as "
                f"1,5,10,all; received {text!r}."
            )
        counts.append(None if word == "all" else int(word))
    return tuple(counts)


def shard_of(text: str) -> tuple[int, int]:
    """The numbers of --shard, (i, n) with 1 <= i <= n.

    Raises:
      UserError: it is not of this form.
    """
    words = text.split("/")
    if len(words) == 2 and all(word.isdecimal() and len(word) < 7 for word in words):
        number, count = map(int, words)
        if 1 <= number <= count:
            return number, count
    raise UserError(
        "--shard is i/n, the number of this machine from 1 to n and the number of machines, such "
        f"as 1/4 to 4/4; received {text!r}."
    )
