"""Stopping on request, by a signal or the end of the time: the current step ends and is saved."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_IMPORT = 600.0  # Seconds.


def _start_of_process() -> float:
    """When the process started, on the clock of `time.monotonic`.

    Where the system does not say, and in a process that did other things before, such as a
    notebook, it is now: when this module is imported.
    """
    now = time.monotonic()
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # Not Linux.
        return now
    return now - age if 0 <= age <= _LONGEST_IMPORT else now


STARTED = _start_of_process()


def age() -> float:
    """Seconds since the process started."""
    return time.monotonic() - STARTED


class StopRequest:
    """Records SIGTERM, SIGINT and the time limit inside its context; a second signal exits.

    Python runs signal handlers between bytecode instructions, and a whole device step is one
    instruction. So a thread reads the signals and can end the process at any moment. Outside the
    main thread, where signals cannot be caught, only the time limit applies.
    """

    def __init__(self, minutes: float = 0.0):
        """minutes: since the start of the process; 0: no limit."""
        self._minutes = minutes
        self._signal: signal.Signals | None = None
        self._previous: dict = {}

    @property
    def reason(self) -> str | None:
        """Why the run should stop; None if it should not."""
        if self._signal is not None:
            return f"{self._signal.name} was received"
        if self._minutes and age() >= 60 * self._minutes:
            return f"--max_run_time={self._minutes:g} minutes are over"
        return None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._read, self._write = socket.socketpair()
            self._write.setblocking(False)
            self._previous = {s: signal.signal(s, lambda *_: None) for s in _SIGNALS}
            self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._previous:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._write.close()  # Ends the thread.

    def _listen(self):
        with self._read:
            while True:
                received = self._read.recv(1)
                if not received:
                    return
                if received[0] not in _SIGNALS:
                    continue
                if self._signal is not None:
                    os._exit(128 + received[0])
                self._signal = signal.Signals(received[0])
                print(
                    f"\n{self._signal.name}: stopping after this step, with all saved; a second "
                    "signal stops at once.",
                    file=sys.stderr,
                    flush=True,
                )
