"""Logs the progress and the remaining time of long work; short work logs nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging

_SECONDS = 10  # Between two log lines.
T = TypeVar("T")


def reported(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields the items; every few seconds logs how many are done and the time left.

    Args:
      items: the items.
      total: their number.
      what: the name of the work in the log.
    """
    start = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= _SECONDS:
            left = (now - start) / done * (total - done)
            logging.info("%s: %d of %d, %.0f s left", what, done, total, left)
            said = now
        yield item
