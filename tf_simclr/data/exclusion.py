"""A list of images that training leaves out: lines of JSON, one for each image.

A line is an object with "path", or only a string: the path of the image relative to its split's
folder or, for other data sets, its name without the folder (`key_of`). JSON writes a line break as
\\n, and each byte that is not UTF-8 as \\udc80 to \\udcff, as Python's "surrogateescape" does, so
that every file name fits on a line of ASCII.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr import storage
from tf_simclr.data.bad_images import listed
from tf_simclr.errors import UserError

_CHUNK = 2**16  # Names in memory at a time.


def key_of(source, name: str) -> str:
    """How a list names an image of a source, of which `source.describe` returns `name`."""
    folder = source.folder and source.folder.rstrip("/") + "/"
    if folder and name.startswith(folder):
        return name[len(folder) :]
    return os.path.basename(name)


def to_lines(entries: Iterable[dict]) -> str:
    """The text of a list.

    Args:
      entries: for each image, an object with "path" (from `key_of`) and what else is to be known.
    """
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def read_list(path: str) -> set[str]:
    """The paths in a list.

    Raises:
      UserError: the file does not exist, is empty, or has a line of another form.
    """
    try:
        contents = storage.read_bytes(os.path.expanduser(path))
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"--exclude_list={path} cannot be read: {reason}") from error
    if contents is None:
        raise UserError(f"--exclude_list={path}: there is no such file.")
    keys = set()
    for number, line in enumerate(contents.split(b"\n"), 1):
        if line.strip():
            keys.add(_path_of(line, path, number))
    if not keys:
        raise UserError(f"--exclude_list={path} is empty; leave the flag out to exclude nothing.")
    return keys


def _path_of(line, path, number):
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    found = entry.get("path") if isinstance(entry, dict) else entry
    if isinstance(found, str) and found:
        return found
    raise UserError(
        f"--exclude_list={path}, line {number}: must be JSON, a string or an object with "
        f'"path", such as "cats/1.jpg" with its quotes; received {line[:80]!r}.'
    )


def without_excluded(source, path: str):
    """The source without the images that a list names; `source` itself if it names none of them.

    Logs how many are left out, and which entries name no image.

    Args:
      source: any.
      path: of the list.

    Raises:
      UserError: the list cannot be read, or names all images.
    """
    keys = read_list(path)
    excluded = np.zeros(source.num_examples, bool)
    matched = set()
    for first in range(0, source.num_examples, _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, source.num_examples))
        for row, name in zip(rows, source.names(rows)):
            key = key_of(source, name)
            if key in keys:
                excluded[row] = True
                matched.add(key)
    unmatched = sorted(keys - matched)
    if unmatched:
        logging.warning(
            "%d of %d entries of --exclude_list=%s name no image of %s (%s): %s",
            *(len(unmatched), len(keys), path, source.name, source.split, listed(unmatched)),
        )
    if excluded.all():
        raise UserError(
            f"--exclude_list={path} names all {len(excluded)} images of {source.name!r} "
            f"({source.split})."
        )
    if not excluded.any():
        return source
    logging.info("--exclude_list leaves out %d of %d images.", excluded.sum(), len(excluded))
    return source.leave_out(excluded)
