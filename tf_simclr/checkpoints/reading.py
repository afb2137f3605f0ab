"""Reads the files of a checkpoint in any folder, and reports why they cannot be read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_simclr.checkpoints.files import names_in
from tf_simclr.errors import UserError

gfile = tf.io.gfile

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_BOOKKEEPING = (GRAPH, "save_counter" + VALUE)
# What TensorFlow's reader raises on files that are not a checkpoint, or only part of one.
UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, IndexError)
_GLOB = frozenset("*?[\\")  # TensorFlow's reader treats a path with these as a pattern.
# The storage failed, and the file may be whole.
_OUT_OF_REACH = (
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
)


class Damaged(UserError):
    """A file of a checkpoint is missing or damaged."""


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[Any, dict[str, tuple[list[int], str]]]]:
    """Yields (reader, {name: (shape, dtype)}) of a checkpoint; the reader is valid inside only."""
    if not gfile.exists(path + ".index"):
        raise UserError(f"no checkpoint at {path!r}: {path}.index does not exist.")
    with _without_pattern(path) as plain:
        try:
            reader = tf.compat.v1.train.NewCheckpointReader(plain)
            shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        except UNREADABLE as error:
            raise unreadable(path, ".index", error) from error
        names = [name for name in shapes if name not in _BOOKKEEPING]
        yield reader, {name: (list(shapes[name]), dtypes[name].base_dtype.name) for name in names}


@contextlib.contextmanager
def _without_pattern(path: str) -> Iterator[str]:
    """Yields a path of the same checkpoint that TensorFlow's reader does not treat as a pattern.

    The reader looks for files that match its path: "runs/lr=[1e-3,2]/ckpt-5" does not match itself,
    and an escaped path does not help, as the reader then opens the escaped name. So it gets links
    to the files, or copies of remote ones.
    """
    if not _GLOB & set(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        if _GLOB & set(scratch):
            raise UserError(
                f"the folder for temporary files, {scratch}, has one of *?[\\ in its name; "
                "TensorFlow cannot read checkpoints there. Set TMPDIR to another folder."
            )
        for file in _files_of(path, "."):
            target = os.path.join(scratch, "ckpt" + file[len(path) :])
            try:
                if "://" in path:
                    gfile.copy(file, target)
                else:
                    os.symlink(os.path.abspath(file), target)
            except (OSError, tf.errors.OpError) as error:
                raise UserError(f"checkpoint file {file} cannot be read: {error}") from error
        yield os.path.join(scratch, "ckpt")


def unreadable(path: str, suffix: str, error: Exception) -> UserError:
    """The error to raise when TensorFlow's reader raised `error`.

    It is `Damaged`, which lets the caller try an older checkpoint, unless the storage failed: an
    outage or a missing permission must not send a run back to an older step.
    """
    files = _files_of(path, suffix)
    for file in files:
        try:
            with gfile.GFile(file, "rb") as content:
                content.read(1)
        except _OUT_OF_REACH as failure:
            return UserError(f"checkpoint file {file} cannot be read: {failure.message}.")
        except tf.errors.OpError:
            pass  # For example a folder in place of the file.
    file = files[0] if files else f"{path}{suffix}*"
    reason = (getattr(error, "message", None) or str(error)).splitlines()[0].rstrip(".")
    return Damaged(f"checkpoint file {file} is {'damaged' if files else 'missing'}: {reason}.")


def _files_of(path: str, suffix: str) -> list[str]:
    """The files of a checkpoint whose names continue with `suffix`."""
    directory, name = os.path.split(path)
    names = [n for n in names_in(directory or ".") if n.startswith(name + suffix)]
    return [os.path.join(directory, n) for n in names]
