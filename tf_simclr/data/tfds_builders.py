"""Finds prepared TensorFlow Datasets (TFDS) on disk, without downloads or the builders' code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name


def find_builder(name: str, data_dir: str | None = None, others: Sequence[str] = ()):
    """Finds a prepared data set.

    Args:
      name: name, name/config or name:version.
      data_dir: the folder of prepared sets, or of one such set; None: TFDS's default.
      others: further names to suggest for a misspelt one.

    Returns:
      A read-only `tfds.core.DatasetBuilder`.

    Raises:
      UserError: unknown or not prepared.
    """
    import tensorflow_datasets as tfds

    if data_dir:
        data_dir = os.path.expanduser(data_dir)
        if tf.io.gfile.exists(os.path.join(data_dir, "dataset_info.json")):
            builder = tfds.builder_from_directory(data_dir)
            if builder.name != _base(name):
                raise UserError(f"data_dir={data_dir!r} holds {builder.name!r}, not {name!r}.")
            return builder
    place = data_dir or tfds.core.constants.DATA_DIR
    known = tfds.list_builders(with_community_datasets=False)
    try:
        # Not `tfds.builder`, which goes to the network for a set that it does not find.
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=place)
    except ValueError as error:  # Also not found.
        raise _not_opened(name, place, known, others, error) from error


def _not_opened(name, place, known, others, error):
    if _base(name) not in known and os.path.isdir(name):
        return UserError(
            f"unknown data set {name!r}; there is a folder of that name. To read its images: "
            f"--dataset=folder --data_dir={name}"
        )
    if type(error) is ValueError:  # Its first line: TFDS explains at length what a name is.
        reason = str(error).strip().split("\n")[0]
        return UserError(f"the data set {name!r} cannot be opened: {reason}")
    literally = re.sub(r"([*?\[\\])", r"\\\1", place)
    there = sorted(
        os.path.relpath(os.path.dirname(path), place)
        for depth in ("*/*", "*/*/*")
        for path in tf.io.gfile.glob(os.path.join(literally, depth, "dataset_info.json"))
    )
    if _base(name) not in known:
        return unknown_name("data set", name, {*known, *others, *map(_base, there)})
    prepared = f" There are: {', '.join(there[:8])}." if there else ""
    return UserError(
        f"the data set {name!r} is not prepared in {place!r}.{prepared} To download and prepare "
        f"it: {_tfds_command()} build {name} --data_dir={place}"
    )


def _tfds_command():
    """The command for this environment's `tfds`, which may not be on PATH."""
    command = os.path.join(os.path.dirname(sys.executable), "tfds")
    if not os.path.exists(command):
        return "tfds"
    here = os.path.relpath(command)
    return command if here.startswith("..") else here


def _base(name):
    return name.split("/")[0].split(":")[0]
