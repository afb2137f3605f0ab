"""The rows of a table in memory, and names that may not be UTF-8."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
    """Consecutive rows of a table.

    Attributes:
      h: float32 [n, D], the vectors.
      paths: the images' paths, or the data set's names for them; bytes that are not UTF-8 are
        surrogates, as `os.fsdecode` makes them.
      sizes: int32 [n, 2], height and width of each image in pixels, as it is seen.
      labels: int64 [n], or None.
      label_names: the name of each row's label; None without labels.
    """

    h: np.ndarray
    paths: Sequence[str]
    sizes: np.ndarray
    labels: np.ndarray | None = None
    label_names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.paths)


def text_of(path: str) -> str:
    """A path as text that can be encoded: bytes that are not UTF-8 become escapes such as \\xff."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def bytes_of(path: str) -> bytes | None:
    """The bytes of a path that is not UTF-8; None for any other, as its text is exact."""
    encoded = path.encode("utf-8", "surrogateescape")
    return None if text_of(path) == path else encoded


def path_of(text: str, encoded: bytes | None) -> str:
    """The path of which `text_of` and `bytes_of` gave these."""
    return text if encoded is None else encoded.decode("utf-8", "surrogateescape")
