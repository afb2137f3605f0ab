"""What a run left in its workdir, read when a section asks for it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr import storage
from tf_simclr.errors import UserError
from tf_simclr.workdir import read_metrics, results_and_files

# What a file with content of another form raises where it is read or shown.
_DAMAGED = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, tf.errors.OpError),
)


class Run:
    """The files of a run, each read at most once; data that is absent is empty.

    Attributes:
      workdir: local or any scheme of `tf.io.gfile`.
    """

    def __init__(self, workdir: str):
        self.workdir = workdir
        self._used: list[str] = []

    def result(self, mode: str) -> dict[str, Any]:
        """The last numbers of a mode; {} if it did not run."""
        numbers, path = self._results.get(mode, ({}, ""))
        if path:
            self._used.append(path)
        return numbers

    @property
    def modes(self) -> list[str]:
        """The modes that left results."""
        return list(self._results)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        self._used.append(self._path("metrics.jsonl"))
        return self._lines

    @property
    def flags(self) -> str:
        """The text of flags.resolved."""
        return (self.read("flags.resolved") or b"").decode("utf-8", "replace")

    @property
    def views(self) -> bytes | None:
        """A PNG of pairs of views.

        Raises:
          ValueError: it is not a PNG.
        """
        png = self.read("views.png")
        if png and not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("it is not a PNG image")
        return png

    @property
    def embeddings(self) -> dict[str, np.ndarray] | None:
        """The arrays of embeddings.npz: features "trained" and "pixels", labels, class_names."""
        npz = self.read("embeddings.npz")
        if not npz:
            return None
        with np.load(io.BytesIO(npz), allow_pickle=False) as saved:
            return dict(saved)

    def read(self, name: str) -> bytes | None:
        """The content of any file of the workdir; None where there is none."""
        self._used.append(self._path(name))
        return storage.read_bytes(self._path(name))

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Turns failures inside the block into a UserError that names the files it has used."""
        self._used.clear()
        try:
            yield
        except UserError:
            raise
        except _DAMAGED as error:
            if not self._used:
                raise
            files = " or ".join(dict.fromkeys(self._used))
            raise UserError(
                f"{files} is damaged, so that report.html cannot be made ({error!r}); restore it, "
                "or remove it."
            ) from error

    @functools.cached_property
    def _results(self):
        return results_and_files(self.workdir)

    @functools.cached_property
    def _lines(self):
        return read_metrics(self.workdir)

    def _path(self, name: str) -> str:
        return os.path.join(self.workdir, name)
