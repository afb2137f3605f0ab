"""The last numbers of each mode: WORKDIR/results/<mode>.json, a file each."""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from tf_simclr import storage
from tf_simclr.errors import UserError

gfile = tf.io.gfile

_BEFORE = "result.json"  # Of earlier versions: one file for all modes.


def write_result(workdir: str, mode: str, numbers: dict[str, Any]) -> None:
    """Replaces the numbers of a mode; those of other modes stay."""
    folder = os.path.join(workdir, "results")
    with storage.naming(folder):
        gfile.makedirs(folder)
    text = json.dumps(numbers, indent=2) + "\n"
    storage.write_whole(os.path.join(folder, f"{mode}.json"), text)


def read_results(workdir: str) -> dict[str, dict[str, Any]]:
    """{mode: numbers}; {} where there are none.

    Raises:
      UserError: a file of them is damaged.
    """
    results = {}
    before = os.path.join(workdir, _BEFORE)
    if gfile.exists(before):
        results.update(_object(before))
    folder = os.path.join(workdir, "results")
    for name in sorted(gfile.listdir(folder)) if gfile.isdir(folder) else ():
        if name.endswith(".json"):
            results[name.removesuffix(".json")] = _object(os.path.join(folder, name))
    return results


def _object(path: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_text(path))
        if isinstance(content, dict):
            return content
    except (ValueError, RecursionError):
        pass
    raise UserError(f"{path} is not a JSON object; restore it, or remove it.")
