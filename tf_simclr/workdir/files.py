"""The files of a run in its workdir, besides checkpoints: whose it is, its metrics, its results.

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

_PATTERN = frozenset("[\\")  # A path with these is a pattern to TensorFlow, and not of itself.
_DURATION = ("train_epochs", "train_steps", "warmup_epochs")


@dataclasses.dataclass(frozen=True)
class Identity:
    """What makes a run this run and not another.

    Attributes:
      text: its settings, the content of flags.resolved.
      changed_from: from the content of a flags.resolved that was found to the settings that alter
        a run and differ: {name: (value there, value here)}.
    """

    text: str
    changed_from: Callable[[str], dict[str, tuple[Any, Any]]]


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

    def check_is_of(self, run: Identity, allow_changes: bool = False) -> None:
        """Checks that the folder is this run's, or free; touches nothing.

        A start that was interrupted before its first checkpoint leaves nothing to resume, so the
        folder is free then.

        Raises:
          UserError: it holds a run with other settings, and `allow_changes` is off.
        """
        saved = self / "flags.resolved"
        try:
            found, holds_run = gfile.exists(saved), self._holds_run()
        except tf.errors.OpError as error:  # A scheme that nobody knows, a server that is away.
            raise UserError(f"--workdir={self.path} cannot be read: {error.message}") from error
        if found and holds_run:
            self._refuse_changes(run.changed_from(storage.read_text(saved)), allow_changes)
        elif gfile.exists(self / "checkpoints") and not found and not allow_changes:
            raise UserError(
                f"--workdir={self.path} holds checkpoints but no flags.resolved that says whose. "
                "Use another --workdir."
            )
        self.results()  # Better now than when there are numbers for it.
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
        """Logs that TensorFlow cannot load a SavedModel from a folder of this name, if so."""
        found = sorted(_PATTERN & set(self.path))
        if found:
            logging.warning(
                "TensorFlow cannot load a SavedModel from a path with %s: copy %s elsewhere first. "
                "Its encoder.keras loads where it is.",
                *(" or ".join(found), self / "encoder"),
            )

    def take(self, run: Identity) -> None:
        """Makes the folder this run's, once it is known that the run can start or resume there."""
        if not self.writes:
            return
        try:
            gfile.makedirs(self.path)
        except tf.errors.OpError as error:
            raise UserError(
                f"--workdir={self.path} cannot be made a folder: {error.message}"
            ) from error
        storage.write_whole(self / "flags.resolved", run.text)

    def metrics_until(self, step: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to `step`; later ones are dropped, to be written again."""
        path = self / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        if self.writes and gfile.exists(path):
            storage.write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        if self.writes:
            storage.append(self / "metrics.jsonl", json.dumps(metrics))

    def keep_result(self, mode: str, numbers: dict[str, Any]) -> None:
        """Writes the last numbers of a mode; those of other modes stay."""
        if self.writes:
            write_result(self.path, mode, numbers)

    def results(self) -> dict[str, dict[str, Any]]:
        """The last numbers of each mode for the encoder of this run: {mode: numbers}."""
        return results_of_encoder(self.path)

    def listing(self) -> bytes | None:
        """What a run here has found in the folder of images; None where none was kept."""
        try:
            return storage.read_bytes(self / "listing.npz")
        except (OSError, tf.errors.OpError):
            return None

    def keep_listing(self, listing: bytes | None) -> None:
        """Keeps `Source.listing`, where there is one, for the next start."""
        if self.writes and listing and listing != self.listing():
            storage.write_whole(self / "listing.npz", listing)

    def summary_writer(self) -> tf.summary.SummaryWriter:
        """TensorBoard's writer."""
        if not self.writes:
            return tf.summary.create_noop_writer()
        return tf.summary.create_file_writer(self / "tensorboard")


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without any that a crash cut short; [] where there are none."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not gfile.exists(path):
        return []
    return [line for line in map(_metrics_of, storage.read_text(path).splitlines()) if line]


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


def _metrics_of(line: str) -> dict[str, Any] | None:
    """None for a line cut short by a crash."""
    try:
        metrics = json.loads(line)
        return metrics if isinstance(metrics["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
