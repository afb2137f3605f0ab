"""Says how far a long piece of work is and how long it will still take; a short one is silent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging

_SECONDS = 10  # Between two lines.
T = TypeVar("T")


def reported(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields the items; every few seconds logs how many are done and the time left.

    Args:
      items: to go through.
      total: how many those are.
      what: the work, for the log.
    """
    start = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= _SECONDS:
            left = (now - start) / done * (total - done)
            logging.info("%s: %d of %d, %.0f s left", what, done, total, left)
            said = now
        yield item
