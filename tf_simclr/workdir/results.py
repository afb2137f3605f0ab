"""The last numbers of each mode: WORKDIR/results/<mode>.json, a file each."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr import storage
from tf_simclr.errors import UserError

gfile = tf.io.gfile

_BEFORE = "result.json"  # Earlier versions wrote one file for all modes.


def write_result(workdir: str, mode: str, numbers: dict[str, Any]) -> None:
    """Replaces the numbers of a mode; those of other modes stay."""
    folder = os.path.join(workdir, "results")
    with storage.naming(folder):
        gfile.makedirs(folder)
    text = json.dumps(numbers, indent=2, default=_plain) + "\n"
    storage.write_whole(os.path.join(folder, f"{mode}.json"), text)


def read_results(workdir: str) -> dict[str, dict[str, Any]]:
    """{mode: numbers}; {} where there are none.

    Raises:
      UserError: one of the files is damaged.
    """
    return {mode: numbers for mode, (numbers, _) in results_and_files(workdir).items()}


def results_of_encoder(workdir: str, init_from: str = "") -> dict[str, dict[str, Any]]:
    """The results of one encoder only, since a workdir can hold evaluations of several.

    Args:
      workdir: whose results to read.
      init_from: where the evaluated encoder came from, as the evaluation recorded it under
        "init_from"; "": the workdir's own encoder.

    Returns:
      {mode: numbers}, without "init_from", which is a path of the machine.

    Raises:
      UserError: one of the files is damaged.
    """
    return {
        mode: {name: value for name, value in numbers.items() if name != "init_from"}
        for mode, numbers in read_results(workdir).items()
        if numbers.get("init_from", "") == init_from
    }


def results_and_files(workdir: str) -> dict[str, tuple[dict[str, Any], str]]:
    """{mode: (numbers, path of the file that holds them)}.

    Raises:
      UserError: one of the files is damaged.
    """
    results = {}
    before = os.path.join(workdir, _BEFORE)
    if gfile.exists(before):
        results.update({mode: (numbers, before) for mode, numbers in _object(before).items()})
    folder = os.path.join(workdir, "results")
    for name in sorted(gfile.listdir(folder)) if gfile.isdir(folder) else ():
        if name.endswith(".json"):
            path = os.path.join(folder, name)
            results[name.removesuffix(".json")] = (_object(path), path)
    for numbers, path in results.values():
        if not isinstance(numbers, dict):
            raise _damaged(path)
    return results


def _plain(value: Any) -> Any:
    """A NumPy number as Python's; `json` refuses them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")


def _object(path: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_text(path))
        if isinstance(content, dict):
            return content
    except (ValueError, RecursionError):
        pass
    raise _damaged(path)


def _damaged(path: str) -> UserError:
    return UserError(f"{path} is not a JSON object of results; restore it, or remove it.")
