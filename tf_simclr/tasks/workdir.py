"""The folder of a run: whose it is, and what is written there besides checkpoints.

flags.resolved  metrics.jsonl  result.json  checkpoints/  encoder/  tensorboard/  report.html
"""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from tf_simclr.config import Config, from_flagfile, to_flagfile
from tf_simclr.errors import UserError

gfile = tf.io.gfile


class Workdir:
    """Paths and small files of a run; local or any scheme `tf.io.gfile` knows.

    Attributes:
      path: the folder.
      writes: whether this process writes there: with several hosts only the chief does.
    """

    def __init__(self, path: str, writes: bool = True):
        self.path = path
        self.writes = writes

    def __truediv__(self, name: str) -> str:
        return os.path.join(self.path, name)

    def claim(self, config: Config) -> None:
        """Makes the folder this run's, or checks that it already is.

        Raises:
          UserError: it holds a run with other settings; nothing is touched.
        """
        saved = self / "flags.resolved"
        if gfile.exists(saved):
            changed = config.changed_from(from_flagfile(_read(saved)))
            if changed:
                list_ = ", ".join(f"--{k} was {a!r}, is {b!r}" for k, (a, b) in changed.items())
                raise UserError(
                    f"--workdir={self.path} holds another run: {list_}. Use another --workdir, or "
                    "the old settings to go on with that run."
                )
        elif gfile.exists(self / "checkpoints"):
            raise UserError(
                f"--workdir={self.path} holds checkpoints but no flags.resolved that says whose. "
                "Use another --workdir."
            )
        if not self.writes:
            return
        try:
            gfile.makedirs(self.path)
        except tf.errors.OpError as error:
            raise UserError(
                f"--workdir={self.path} cannot be made a folder: {error.message}"
            ) from error
        write_atomically(saved, to_flagfile(config))

    def metrics_from(self, step: int) -> None:
        """Drops the lines of metrics.jsonl after `step`: a resumed run writes them again."""
        path = self / "metrics.jsonl"
        if self.writes and gfile.exists(path):
            lines = [line for line in _read(path).splitlines() if _step_of(line) <= step]
            write_atomically(path, "".join(line + "\n" for line in lines))

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        if not self.writes:
            return
        with gfile.GFile(self / "metrics.jsonl", "a") as file:
            file.write(json.dumps(metrics) + "\n")

    def update_result(self, mode: str, numbers: dict[str, Any]) -> None:
        """Sets the last numbers of a mode in result.json; other modes' stay."""
        if self.writes:
            result = {**self.result(), mode: numbers}
            write_atomically(self / "result.json", json.dumps(result, indent=2) + "\n")

    def summary_writer(self) -> tf.summary.SummaryWriter:
        """TensorBoard's writer."""
        if not self.writes:
            return tf.summary.create_noop_writer()
        return tf.summary.create_file_writer(self / "tensorboard")

    def result(self) -> dict[str, Any]:
        """What result.json holds; {} where there is none."""
        path = self / "result.json"
        return json.loads(_read(path)) if gfile.exists(path) else {}


def write_atomically(path: str, text: str) -> None:
    """Replaces a file whole: a crash leaves the old one or the new one."""
    with gfile.GFile(path + ".tmp", "w") as file:
        file.write(text)
    gfile.rename(path + ".tmp", path, overwrite=True)


def _read(path: str) -> str:
    with gfile.GFile(path, "r") as file:
        return file.read()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # A line cut short by a crash.
