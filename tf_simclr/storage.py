"""Atomic file writes, local or any scheme that `tf.io.gfile` supports; errors name the file."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import tensorflow as tf

from tf_simclr.errors import UserError

gfile = tf.io.gfile


def require_known_scheme(path: str, argument: str) -> None:
    """Checks that TensorFlow has a file system for the scheme of a path, such as gs://.

    Args:
      path: a local path or one with a scheme. Nothing is opened.
      argument: the name of the argument, for the message.

    Raises:
      UserError: it has none.
    """
    scheme, separator, _ = path.partition("://")
    known = gfile.get_registered_schemes()
    if separator and scheme not in known:
        ours = ", ".join(f"{name}://" for name in sorted(filter(None, known)))
        raise UserError(
            f"{argument}={path}: TensorFlow {tf.__version__} cannot open {scheme}:// here, but "
            f"{ours}. Mount the storage as a folder (for example with gcsfuse, rclone or "
            "mount-s3) and pass the folder's path."
        )


def write_whole(path: str, contents: str | bytes) -> None:
    """Replaces a file atomically: a crash or a full disk leaves the old or the new content.

    Raises:
      UserError: it cannot be written.
    """
    with naming(path):
        with gfile.GFile(path + ".tmp", "wb" if isinstance(contents, bytes) else "w") as file:
            file.write(contents)
        gfile.rename(path + ".tmp", path, overwrite=True)


def append(path: str, line: str) -> None:
    """Appends a line to a text file, creating it if needed.

    Raises:
      UserError: it cannot be written.
    """
    with naming(path), gfile.GFile(path, "a") as file:
        file.write(line + "\n")


def read_text(path: str) -> str:
    """The content of a text file.

    Raises:
      UserError: it is not text, or cannot be read.
    """
    try:
        with gfile.GFile(path, "r") as file:
            return file.read()
    except (UnicodeDecodeError, OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"{path} cannot be read: {reason}") from error


def read_bytes(path: str) -> bytes | None:
    """The content of a file; None if there is no file.

    Raises:
      OSError, tf.errors.OpError: the file exists but cannot be read.
    """
    if not gfile.exists(path):
        return None
    with gfile.GFile(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def naming(path: str):
    """Turns a failure to write a file into a UserError that names it."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"{path} cannot be written: {reason}") from error


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file, or it holds no object."""
    try:
        contents = read_bytes(path)
        content = None if contents is None else json.loads(contents)
    except (ValueError, RecursionError, OSError, tf.errors.OpError):
        return None
    return content if isinstance(content, dict) else None
