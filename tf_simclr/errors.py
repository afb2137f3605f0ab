"""Errors that a user can fix: what was wrong, what was received, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

BAD_REQUEST = 2  # Exit code of `UserError`.
STOPPED = 75  # Exit code of `Stopped`; EX_TEMPFAIL of sysexits.h: try again.


class UserError(ValueError):
    """An invalid request by the user; the message is complete by itself.

    The binary prints it as one line and exits with `BAD_REQUEST`; everything else is a bug and
    keeps its traceback. It is a `ValueError`, so library users need not know of it.
    """


class Stopped(Exception):
    """The run ended before it was done, and the same command resumes it: it was asked to stop, or
    another host was lost. The binary prints the message and exits with `STOPPED`."""


def printable(text: object) -> str:
    """A text as one line for a terminal or a page.

    Args:
      text: anything, such as a file name with control characters or bytes that are not UTF-8.

    Returns:
      What `str` makes of it, with every character that is not printable as a Python escape.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def brief(error: Exception) -> str:
    """The type and the reason of any error in one line of at most some 300 characters."""
    # Keras puts a stack of calls before the reason, and the arguments of the call behind it.
    text = " ".join(str(error).split("Call arguments received")[0].split())
    if len(text) > 300:
        text = f"... {text[-300:]}" if text.startswith("in user code") else f"{text[:300]} ..."
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def unknown_name(kind: str, value: object, choices: Iterable[str]) -> UserError:
    """Says that `value` names no `kind`, with the nearest names first.

    Args:
      kind: what the name stands for, e.g. "encoder".
      value: what was received.
      choices: every name that exists.

    Returns:
      The error, to be raised.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(str(value).lower(), choices, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(repr(name) for name in near) + "?"
    elif len(choices) <= 24:
        hint = "choose one of " + ", ".join(choices) + "."
    else:
        hint = f"there are {len(choices)} to choose from, such as {', '.join(choices[:6])}."
    return UserError(f"unknown {kind} {value!r}: {hint}")
