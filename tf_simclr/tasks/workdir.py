"""The folder of a run: whose it is, and what is written there besides checkpoints.

flags.resolved  metrics.jsonl  result.json  checkpoints/  encoder/  tensorboard/  report.html
listing.npz  lock
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.flagfile import from_flagfile, to_flagfile

gfile = tf.io.gfile

_PATTERN = frozenset("[\\")  # A path with these is a pattern to TensorFlow, and not of itself.


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

    def check_is_of(self, config: Config) -> None:
        """Checks that the folder is this run's, or free; touches nothing.

        Raises:
          UserError: it holds a run with other settings, and `config.allow_changes` is off.
        """
        saved = self / "flags.resolved"
        try:
            found = gfile.exists(saved)
        except tf.errors.OpError as error:  # A scheme that nobody knows, a server that is away.
            raise UserError(f"--workdir={self.path} cannot be read: {error.message}") from error
        if found:
            changed = config.changed_from(from_flagfile(_read(saved)))
            if changed:
                list_ = ", ".join(f"--{k} was {a!r}, is {b!r}" for k, (a, b) in changed.items())
                if not config.allow_changes:
                    raise UserError(
                        f"--workdir={self.path} holds another run: {list_}. Use another --workdir, "
                        "the old settings to resume that run, or --allow_changes."
                    )
                logging.warning("Resuming with other settings: %s.", list_)
        elif gfile.exists(self / "checkpoints") and not config.allow_changes:
            raise UserError(
                f"--workdir={self.path} holds checkpoints but no flags.resolved that says whose. "
                "Use another --workdir."
            )
        self.result()  # Better now than when there are numbers for it.
        self.warn_of_pattern()

    def warn_of_pattern(self) -> None:
        """Logs that TensorFlow cannot load a SavedModel from a folder of this name, if so."""
        found = sorted(_PATTERN & set(self.path))
        if found:
            logging.warning(
                "TensorFlow cannot load a SavedModel from a path with %s: copy %s elsewhere first. "
                "Its encoder.keras loads where it is.",
                *(" or ".join(found), self / "encoder"),
            )

    def claim(self, config: Config) -> None:
        """Makes the folder this run's, once it is known that the run can start or resume there."""
        if not self.writes:
            return
        try:
            gfile.makedirs(self.path)
        except tf.errors.OpError as error:
            raise UserError(
                f"--workdir={self.path} cannot be made a folder: {error.message}"
            ) from error
        write_atomically(self / "flags.resolved", to_flagfile(config))

    def metrics_until(self, step: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to `step`; later ones are dropped, to be written again."""
        path = self / "metrics.jsonl"
        if not gfile.exists(path):
            return []
        lines = [line for line in map(_metrics_of, _read(path).splitlines()) if line]
        kept = [line for line in lines if line["step"] <= step]
        if self.writes:
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        if not self.writes:
            return
        path = self / "metrics.jsonl"
        with telling_of(path), gfile.GFile(path, "a") as file:
            file.write(json.dumps(metrics) + "\n")

    def update_result(self, mode: str, numbers: dict[str, Any]) -> None:
        """Sets the last numbers of a mode in result.json; other modes' stay."""
        if self.writes:
            result = {**self.result(), mode: numbers}
            write_atomically(self / "result.json", json.dumps(result, indent=2) + "\n")

    def listing(self) -> bytes | None:
        """What a run here has found in the folder of images; None where none was kept."""
        try:
            with gfile.GFile(self / "listing.npz", "rb") as file:
                return file.read()
        except (OSError, tf.errors.OpError):
            return None

    def keep_listing(self, listing: bytes | None) -> None:
        """Keeps `Source.listing`, where there is one, for the next start."""
        if self.writes and listing and listing != self.listing():
            write_atomically(self / "listing.npz", listing)

    def summary_writer(self) -> tf.summary.SummaryWriter:
        """TensorBoard's writer."""
        if not self.writes:
            return tf.summary.create_noop_writer()
        return tf.summary.create_file_writer(self / "tensorboard")

    def result(self) -> dict[str, Any]:
        """What result.json holds; {} where there is none."""
        path = self / "result.json"
        if not gfile.exists(path):
            return {}
        try:
            result = json.loads(_read(path))
            if isinstance(result, dict):
                return result
        except (ValueError, RecursionError):
            pass
        raise UserError(f"{path} is not a JSON object; restore it, or remove it.")


def write_atomically(path: str, contents: str | bytes) -> None:
    """Replaces a file whole: a crash or a full disk leaves the old one or the new one.

    Raises:
      UserError: it cannot be written.
    """
    with telling_of(path):
        with gfile.GFile(path + ".tmp", "wb" if isinstance(contents, bytes) else "w") as file:
            file.write(contents)
        gfile.rename(path + ".tmp", path, overwrite=True)


@contextlib.contextmanager
def telling_of(path: str):
    """Turns a failure to write a file into a message that names it."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"{path} cannot be written: {reason}") from error


@contextlib.contextmanager
def telling_what_is_full():
    """Turns the lack of memory or disk into a message that says what to do."""
    try:
        yield
    except (MemoryError, OSError, tf.errors.ResourceExhaustedError) as error:
        message = " ".join((getattr(error, "message", None) or str(error)).split())
        if isinstance(error, OSError) or "space" in message:
            raise UserError(
                f"a file cannot be written or read: {message}. What was saved before is kept; the "
                "same command resumes from it."
            ) from error
        raise UserError(
            f"out of memory: {message[:200] or 'no more to be had'}. "
            "--mode=doctor with the same flags names a --micro_batch_size that fits."
        ) from error


def _read(path: str) -> str:
    """Raises UserError if a file is not text or cannot be read."""
    try:
        with gfile.GFile(path, "r") as file:
            return file.read()
    except (UnicodeDecodeError, OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"{path} cannot be read: {reason}") from error


def _metrics_of(line: str) -> dict[str, Any] | None:
    """None for a line cut short by a crash."""
    try:
        metrics = json.loads(line)
        return metrics if isinstance(metrics["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
