"""Shared by the benchmarks: flags, contestants that take turns, medians, one JSON line."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable


def flags(description: str) -> argparse.ArgumentParser:
    """A parser of the flags that `make bench` passes to every benchmark, and of --runs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", help="folder of JPEG files")
    parser.add_argument("--peer", help="directory tf2/ of a checkout of google-research/simclr")
    parser.add_argument("--runs", type=int, default=5)
    return parser


def in_turns(contestants: dict[str, Callable[[], float]], runs: int = 5) -> dict[str, float]:
    """Runs every contestant once per round, so that noise affects all of them alike.

    Args:
      contestants: {name: function that does the work once and returns its figure}.
      runs: number of rounds.

    Returns:
      {name: median figure}.
    """
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            figures[name].append(run())
    return {name: statistics.median(values) for name, values in figures.items()}


def rate(
    step: Callable[[], object], items: int, seconds: float = 3.0, warm_up: float = 0.0
) -> float:
    """Items per second of `step`, which processes `items` of them, over about `seconds`."""
    start = time.perf_counter()
    while time.perf_counter() - start < warm_up:
        step()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        done += items
    return done / (time.perf_counter() - start)


def report(**figures) -> None:
    """Prints the figures as one JSON line."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(
        json.dumps({**rounded, "machine": platform.machine(), "python": platform.python_version()})
    )
