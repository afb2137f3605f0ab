"""Paths from users and from recorded settings. Standard library only."""

from __future__ import annotations

import glob
import os

from tf_simclr.errors import UserError


def is_folder_path(dataset: str) -> bool:
    """Whether `--dataset` is the path of a folder of images, not the name of a data set.

    A bare word is always a name, so that its meaning does not depend on the current directory. A
    name with a slash may be a TFDS name/config; a prepared set of that name in the current
    directory is recognised by its version folders.
    """
    if dataset.startswith(("/", "./", "../", "~")) or dataset in (".", "..") or "://" in dataset:
        return True
    if "/" not in dataset or not os.path.isdir(dataset):
        return False
    prepared = os.path.join(glob.escape(dataset), "*", "dataset_info.json")
    return not glob.glob(prepared)


def at_home(path: str, argument: str) -> str:
    """Expands "~" in a path, which the shell does not do in `--workdir=~/x`.

    Args:
      path: as given.
      argument: the name of the argument, for the message.

    Raises:
      UserError: there is no such home folder; or a folder is literally called "~", as earlier
        versions created, so that the path is ambiguous.
    """
    expanded = os.path.expanduser(path)
    if path.startswith("~") and (expanded == path or os.path.exists(path)):
        why = "names no home folder" if expanded == path else "is also a folder here"
        raise UserError(
            f"{argument}={path}: {path.split('/')[0]} {why}. Write ./{path} for the folder of that "
            "name, or the whole path of a home folder."
        )
    return expanded


def may_be_same_place(before: str, now: str) -> bool:
    """Whether a path recorded by a run may refer to the same place as `now`.

    If nothing exists at `before`, the folder may have been moved, or the path may be relative to
    another directory. The fingerprint in the checkpoints' manifest then decides whether the images
    are the same.
    """
    if not before or not now or "://" in before:
        return before == now
    if not os.path.isabs(before) or not os.path.exists(before):
        return True
    return os.path.realpath(before) == os.path.realpath(now)
