"""The files of a run in its workdir, except checkpoints: its settings, metrics and results.

flags.resolved  metrics.jsonl  results/  checkpoints/  encoder/  tensorboard/  report.html
listing.npz  lock
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr import storage
from tf_simclr.checkpoints import steps_in
from tf_simclr.errors import UserError
from tf_simclr.workdir.results import results_of_encoder, write_result

gfile = tf.io.gfile

# TensorFlow reads a path with these as a pattern that does not match itself.
_PATTERN = frozenset("[\\")
_DURATION = ("train_epochs", "train_steps", "train_minutes", "warmup_epochs")


@dataclasses.dataclass(frozen=True)
class Identity:
    """The settings that distinguish a run from others.

    Attributes:
      text: its settings, the content of flags.resolved.
      changed_from: maps the content of an existing flags.resolved to the settings that alter a run
        and differ: {name: (value there, value here)}.
    """

    text: str
    changed_from: Callable[[str], dict[str, tuple[Any, Any]]]


class Workdir:
    """Paths and small files of a run; local or any scheme `tf.io.gfile` supports.

    Attributes:
      path: the folder.
      writes: whether this process writes there; with several hosts only the chief does.
    """

    def __init__(self, path: str, writes: bool = True):
        self.path = path
        self.writes = writes

    def __truediv__(self, name: str) -> str:
        return os.path.join(self.path, name)

    def check_is_of(self, run: Identity, allow_changes: bool = False) -> None:
        """Checks that the folder belongs to this run or is free; changes nothing.

        A start that was interrupted before its first checkpoint leaves nothing to resume, so the
        folder is free then.

        Raises:
          UserError: it holds a run with other settings, and `allow_changes` is off.
        """
        saved = self / "flags.resolved"
        try:
            found, holds_run = gfile.exists(saved), self._holds_run()
        except tf.errors.OpError as error:  # An unknown scheme, or a server that is down.
            raise UserError(f"--workdir={self.path} cannot be read: {error.message}") from error
        if found and holds_run:
            self._refuse_changes(run.changed_from(storage.read_text(saved)), allow_changes)
        elif gfile.exists(self / "checkpoints") and not found and not allow_changes:
            raise UserError(
                f"--workdir={self.path} holds checkpoints but no flags.resolved with their "
                "settings. "
                "Use another --workdir."
            )
        self.results()  # Fails now rather than when results are to be written.
        self.warn_of_pattern()

    def _holds_run(self) -> bool:
        made = any(gfile.exists(self / name) for name in ("encoder", "results", "result.json"))
        return made or bool(steps_in(self / "checkpoints"))

    def _refuse_changes(self, changed: dict[str, tuple[Any, Any]], allow_changes: bool) -> None:
        if not changed:
            return
        list_ = ", ".join(f"--{k} was {a!r}, is {b!r}" for k, (a, b) in changed.items())
        if allow_changes:
            logging.warning("Resuming with other settings: %s.", list_)
            return
        schedule = (
            ", which resumes at the learning rate that the schedule of the new length has at that "
            "step"
        )
        raise UserError(
            f"--workdir={self.path} holds another run: {list_}. Use another --workdir, the old "
            f"settings to resume that run, or --allow_changes"
            f"{schedule if set(_DURATION) & set(changed) else ''}."
        )

    def warn_of_pattern(self) -> None:
        """Warns if TensorFlow cannot load a SavedModel from a folder of this name."""
        found = sorted(_PATTERN & set(self.path))
        if found:
            logging.warning(
                "TensorFlow cannot load a SavedModel from a path with %s: copy %s elsewhere first. "
                "Its encoder.keras loads where it is.",
                *(" or ".join(found), self / "encoder"),
            )

    def write_settings(self, run: Identity) -> None:
        """Claims the folder for this run; call it once the run is known to start or resume."""
        if not self.writes:
            return
        try:
            gfile.makedirs(self.path)
        except tf.errors.OpError as error:
            raise UserError(f"--workdir={self.path} cannot be created: {error.message}") from error
        storage.write_whole(self / "flags.resolved", run.text)

    def metrics_until(self, step: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to `step`; drops later ones, whose steps run again."""
        path = self / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        if self.writes and gfile.exists(path):
            storage.write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        if self.writes:
            storage.append(self / "metrics.jsonl", json.dumps(metrics))

    def write_metrics(self, metrics: dict[str, Any], writer: tf.summary.SummaryWriter) -> None:
        """Appends a line to metrics.jsonl, and gives its numbers to TensorBoard's writer."""
        self.log_metrics(metrics)
        with writer.as_default(step=metrics["step"]):
            for name, value in metrics.items():
                tf.summary.scalar(name, value)

    def keep_result(self, mode: str, numbers: dict[str, Any]) -> None:
        """Writes the latest results of a mode; those of other modes stay."""
        if self.writes:
            write_result(self.path, mode, numbers)

    def results(self) -> dict[str, dict[str, Any]]:
        """The latest results of each mode for this run's encoder: {mode: numbers}."""
        return results_of_encoder(self.path)

    def summary_writer(self) -> tf.summary.SummaryWriter:
        """TensorBoard's writer."""
        if not self.writes:
            return tf.summary.create_noop_writer()
        return tf.summary.create_file_writer(self / "tensorboard")


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without lines that a crash cut short; [] if there are none."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not gfile.exists(path):
        return []
    return [line for line in map(_metrics_of, storage.read_text(path).splitlines()) if line]


@contextlib.contextmanager
def explaining_full_memory_or_disk():
    """Turns errors from a lack of memory or disk space into messages that say what to do."""
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
            f"out of memory: {message[:200] or 'no more is available'}. "
            "--mode=doctor with the same flags names a --micro_batch_size that fits."
        ) from error


def _metrics_of(line: str) -> dict[str, Any] | None:
    """None for a line cut short by a crash."""
    try:
        metrics = json.loads(line)
        return metrics if isinstance(metrics["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
