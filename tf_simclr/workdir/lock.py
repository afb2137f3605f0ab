"""Allows one run at a time in a workdir. The lock of a dead run does not block the next one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time

import tensorflow as tf
from absl import logging

from tf_simclr.errors import UserError

gfile = tf.io.gfile

_RENEWED_EVERY = 10.0  # Seconds between renewals of a lease, on storage without locks.
_STALE_AFTER = 4 * _RENEWED_EVERY


@contextlib.contextmanager
def locked(workdir: str):
    """Keeps other runs out of a workdir inside the context.

    On a file system this is an advisory lock (flock) on WORKDIR/lock, which the system releases
    however the process ends. On other storage (gs://...) it is a lease: WORKDIR/lock is rewritten
    every 10 seconds, and is stale if unchanged for 40. The file is removed when the run ends.

    Raises:
      UserError: another run uses the workdir (the message names it); or the folder cannot be made.
    """
    path = os.path.join(workdir, "lock")
    try:
        made = not gfile.exists(workdir)
        gfile.makedirs(workdir)
        held = _lease(path) if "://" in workdir else _flock(path)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or error
        raise UserError(f"--workdir={workdir} cannot be written: {reason}") from error
    try:
        with held:
            yield
    finally:  # An error raised before anything was written leaves no folder.
        if made and gfile.isdir(workdir) and not gfile.listdir(workdir):
            gfile.rmtree(workdir)


def _flock(path: str):
    """Acquires the lock; returns a context manager that releases it."""
    while True:
        file = open(path, "a+")  # noqa: SIM115 - it stays open as long as the lock is held.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read()
            file.close()
            raise _taken(path, owner) from None
        except OSError as error:  # A network file system without locks.
            logging.warning(
                "%s cannot be locked (%s): make sure that no other run uses it.",
                path,
                error,
            )
        if _is_at(path, file):
            break
        file.close()  # Its owner removed it just before we locked it.
    file.truncate(0)
    file.write(_owner())
    file.flush()

    @contextlib.contextmanager
    def held():
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.remove(path)
            file.close()

    return held()


def _is_at(path: str, file) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lease(path: str):
    """Acquires the lease; returns a context manager that releases it."""
    found = _content(path)
    if found:
        logging.info("%s exists; checking for %.0f s that its run is dead ...", path, _STALE_AFTER)
        deadline = time.monotonic() + _STALE_AFTER
        while time.monotonic() < deadline and _content(path):
            if _content(path) != found:
                raise _taken(path, found)
            time.sleep(_RENEWED_EVERY / 10)
    mine, ended = _owner(), threading.Event()
    _write(path, mine)
    time.sleep(_RENEWED_EVERY / 10)  # If two runs start at once, the later write wins.
    if _content(path) != mine:
        raise _taken(path, _content(path))

    def renew():
        while not ended.wait(_RENEWED_EVERY):
            with contextlib.suppress(tf.errors.OpError):  # The next time may succeed.
                _write(path, _owner())

    @contextlib.contextmanager
    def held():
        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(tf.errors.OpError):
                gfile.remove(path)

    return held()


def _owner() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    who = {"host": socket.gethostname(), "pid": os.getpid(), "at": since}
    return json.dumps({**who, "once": secrets.token_hex(8)})


def _taken(path: str, owner: str) -> UserError:
    try:
        who = json.loads(owner)
        who = f"process {int(who['pid'])} on {who['host']}, {who['at']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return UserError(
        f"--workdir={os.path.dirname(path)} is in use by another run ({who}). Wait for its end, "
        "stop it, or use another --workdir."
    )


def _content(path: str) -> str:
    try:
        with gfile.GFile(path, "r") as file:
            return file.read()
    except tf.errors.NotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    with gfile.GFile(path + ".tmp", "w") as file:
        file.write(text)
    gfile.rename(path + ".tmp", path, overwrite=True)
