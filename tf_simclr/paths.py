"""Paths as users give them and runs record them. Standard library only."""

from __future__ import annotations

import glob
import os

from tf_simclr.errors import UserError


def is_folder_path(dataset: str) -> bool:
    """Whether `--dataset` is the path of a folder of images, not the name of a data set.

    A bare word never is, or it would mean something else in another directory. A name with a slash
    can also be a TFDS name/config, whose folder can lie in the current directory: it has versions.
    """
    if dataset.startswith(("/", "./", "../", "~")) or dataset in (".", "..") or "://" in dataset:
        return True
    if "/" not in dataset or not os.path.isdir(dataset):
        return False
    prepared = os.path.join(glob.escape(dataset), "*", "dataset_info.json")
    return not glob.glob(prepared)


def at_home(path: str, argument: str) -> str:
    """Replaces "~" in a path, which the shell leaves in `--workdir=~/x`.

    Args:
      path: as given.
      argument: what it was given for, for the message.

    Raises:
      UserError: there is no such home folder; or the path exists as it is, so that it is not clear
        which one is meant (earlier versions made folders called "~").
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
    """Whether a path that a run has recorded may be `now`: it is the same, or has been moved.

    If nothing exists at `before`, it was moved or is relative to another folder. Then the
    fingerprint in the checkpoints' manifest decides whether the images are the same.
    """
    if not before or not now or "://" in before:
        return before == now
    if not os.path.isabs(before) or not os.path.exists(before):
        return True
    return os.path.realpath(before) == os.path.realpath(now)
