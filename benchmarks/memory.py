"""Resident memory for the benchmarks (Linux), each figure from a separate process."""

from __future__ import annotations

import re
import subprocess
import sys


def resident_mib() -> float:
    """The current resident memory of this process."""
    return _status("VmRSS")


def peak_mib() -> float:
    """The peak resident memory of this process since its start or `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def figures_of(*command: str) -> list[float]:
    """The numbers in the last line that `python command...` prints."""
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        return int(re.search(rf"{field}:\s*(\d+)", file.read())[1]) / 1024
