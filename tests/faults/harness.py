"""Every fuzzed input must end in success or one clear message, in time, with nothing lost."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import io
import os
import re
import resource
import shutil
import signal
import stat
import sys
import threading
import traceback

from absl import flags

from tf_simclr.errors import UserError

SECONDS = 30  # An input takes milliseconds; a machine shared with others may be slow.
MEMORY = 3 * 2**30  # Bytes that an input may allocate: far more than such small inputs need.
MOST_TEXT = 20_000  # A message longer than this, unless the input is long, is not clear.
# Files that a killed or failed run may leave or remove in addition to the user's files.
PASSING = re.compile(rb"(^|/)(tmp-[^/]*|[^/]*\.(tmp|lock|new|old)|\.?lock)(/|$)")


@dataclasses.dataclass
class Outcome:
    """How an input ended.

    Attributes:
      message: the error's message; "" for success.
      fault: what is wrong with the outcome; "" if nothing.
    """

    message: str = ""
    fault: str = ""


class Hang(BaseException):
    """Not an Exception, so that `except Exception` does not catch it."""


class Fault(AssertionError):
    """The package gave a wrong answer."""


def outcome_of(
    action, folder: str, told: str, *, argument_size: int = 0, may_change: str = ""
) -> Outcome:
    """Runs one input.

    Args:
      action: the input, a function without arguments.
      folder: where all its files are.
      told: how to replay the input, printed if the process must be killed.
      argument_size: size of the arguments, which a message may repeat.
      may_change: pattern of the files that may have changed before a later failure.
    """
    before = snapshot(folder)
    result = Outcome()
    try:
        with _limits(told), _console() as said:
            action()
    except (UserError, flags.Error) as error:
        result.message = str(error)
        result.fault = _unclear(result.message, argument_size, before)
    except SystemExit as error:
        result.message = f"exit {error.code!r}"
        result.fault = "" if error.code and _told_why(error, said) else "exits without a reason"
    except Fault as error:
        result.fault = str(error)
    except (Exception, Hang):
        result.fault = traceback.format_exc()
    if not result.fault and "Traceback (most recent" in said():
        result.fault = f"a traceback was printed:\n{said()[-2000:]}"
    if result.message or result.fault:
        lost = lost_since(before, folder, may_change)
        if lost:
            failed = f"{result.message}\n{result.fault}".strip()
            result.fault = f"files were lost or changed: {', '.join(lost[:5])}\nafter: {failed}"
    return result


def snapshot(folder: str) -> dict[bytes, bytes]:
    """{relative path: contents} of all files below a folder; for others, their kind."""
    found = {}
    root = os.fsencode(folder)
    for here, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(here, name)
            found[os.path.relpath(path, root)] = _content(path)
    return found


def lost_since(before: dict[bytes, bytes], folder: str, may_change: str = "") -> list[str]:
    """Names of what existed before and is missing or changed."""
    after = snapshot(folder)
    passing = re.compile(PASSING.pattern + (b"|" + may_change.encode() if may_change else b""))
    return [
        os.fsdecode(name)
        for name, content in sorted(before.items())
        if not passing.search(name) and after.get(name) != content
    ]


def remove(folder: str) -> None:
    """Removes a tree, whatever its permissions."""
    for here, _, _ in os.walk(os.fsencode(folder)):
        with contextlib.suppress(OSError):
            os.chmod(here, 0o700)
    shutil.rmtree(os.fsencode(folder), ignore_errors=True)


def _content(path: bytes) -> bytes:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return b"link to " + os.readlink(path)
    if not stat.S_ISREG(mode):
        return b"kind %d" % stat.S_IFMT(mode)
    if not mode & stat.S_IRUSR:
        return b"unreadable"
    with open(path, "rb") as file:
        return b"file " + file.read()


def _unclear(message: str, argument_size: int, before: dict[bytes, bytes]) -> str:
    """What is wrong with a message; "" if nothing."""
    if not message.strip():
        return "an error without a message"
    if "Traceback (most recent" in message:
        return f"a traceback for a message: {message[-2000:]}"
    names = sum(len(name) for name in before)
    if len(message) > MOST_TEXT + 8 * (argument_size + names):
        return f"a message of {len(message)} characters: {message[:200]}"
    return ""


def _told_why(error: SystemExit, said) -> bool:
    return bool(said().strip()) if isinstance(error.code, int) else bool(str(error.code).strip())


@contextlib.contextmanager
def _limits(told: str):
    """Limits time by an alarm, and memory by the kernel if possible; restores both afterwards."""

    def ring(*_):
        raise Hang(f"no answer after {SECONDS} s")

    def give_up():  # The alarm waits for Python: it is of no use if TensorFlow hangs.
        sys.__stderr__.write(f"hangs: {told}\n")
        faulthandler.dump_traceback(sys.__stderr__)
        os._exit(70)

    last = threading.Timer(5 * SECONDS, give_up)
    last.daemon = True
    old = signal.signal(signal.SIGALRM, ring)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    last.start()
    try:
        if sys.platform == "linux":
            most = _virtual_bytes() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (_least(most, soft), hard))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        last.cancel()


def _virtual_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _least(a: int, b: int) -> int:
    return a if b == resource.RLIM_INFINITY else min(a, b)


@contextlib.contextmanager
def _console():
    """Replaces standard output by a strict UTF-8 one, as a terminal's; yields what is printed."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)

    def said():
        return "".join(s.buffer.getvalue().decode("utf-8", "replace") for s in (out, err))

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield said
