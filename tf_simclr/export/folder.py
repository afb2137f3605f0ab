"""Replacing an exported folder at once: the earlier one stays until the new one is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from tf_simclr.errors import UserError

gfile = tf.io.gfile

_MARKS = ("saved_model.pb", "card.json")  # The files by which an exported encoder is recognised.


def check_replaceable(directory: str) -> None:
    """Refuses a folder that holds anything but an earlier export.

    If an earlier replacement was interrupted, its set-aside folder is renamed back first.

    Raises:
      UserError: the folder holds something else, or is a file.
    """
    old = directory + ".old"
    if gfile.exists(old) and not gfile.exists(directory):
        gfile.rename(old, directory)
    if not gfile.exists(directory):
        return
    is_export = all(gfile.exists(os.path.join(directory, name)) for name in _MARKS)
    if not is_export and (not gfile.isdir(directory) or gfile.listdir(directory)):
        raise UserError(
            f"{directory} exists but is not an exported encoder, so it will not be overwritten. "
            "Choose a new folder."
        )


@contextlib.contextmanager
def replacing(directory: str) -> Iterator[str]:
    """Gives an empty temporary folder, which replaces `directory` when the block succeeds.

    When the block or the replacement fails, `directory` stays as it was and the temporary folder
    is removed. Call `check_replaceable` first.
    """
    new = directory + ".new"
    if gfile.exists(new):
        gfile.rmtree(new)
    try:
        gfile.makedirs(new)
        yield new
        _put_in_place(new, directory)
    except BaseException:
        with contextlib.suppress(OSError, tf.errors.OpError):
            if gfile.exists(new):
                gfile.rmtree(new)
        raise


def _put_in_place(new: str, directory: str) -> None:
    """Replaces a folder. Folders cannot be swapped in one move, so the old one is set aside."""
    old = directory + ".old"
    if gfile.exists(directory):
        if gfile.exists(old):
            gfile.rmtree(old)
        gfile.rename(directory, old)
    try:
        gfile.rename(new, directory)
    except BaseException:
        if gfile.exists(old):
            gfile.rename(old, directory)
        raise
    if gfile.exists(old):
        gfile.rmtree(old)
