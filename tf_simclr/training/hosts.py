"""Detects that one of several hosts is gone or hangs, and reports which."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

import tensorflow as tf
from tensorflow.python.eager import context  # The only way to the hosts' key-value store.

from tf_simclr.distribute import host_names, several_hosts
from tf_simclr.errors import STOPPED, Stopped

# Seconds a step may take; three times as many for the first, which also traces and compiles.
HANGING_AFTER = 600.0
_ANSWER = 5.0  # Seconds to wait for the other hosts to report their state.
_RESUME = "The last checkpoint is kept; the same command on all hosts resumes from it."
# What a collective operation raises when a host is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


@contextlib.contextmanager
def exit_when_peer_lost(strategy: tf.distribute.Strategy):
    """Wraps everything a run does on several hosts.

    Raises:
      Stopped: a host was lost; the message names it.
    """
    try:
        yield
    except _LOST as error:
        if not several_hosts(strategy):
            raise
        names, own = host_names(strategy)
        message = error.message.split("\n\t [[")[0].strip().split("\n")[-1]
        named = [n for i, n in enumerate(names) if i != own and f"task:{i}" in error.message]
        who = " and ".join(named) or " or ".join(n for i, n in enumerate(names) if i != own)
        raise Stopped(
            f"{who} was lost, so this host stops too; its own output says why. {_RESUME} "
            f"(TensorFlow: {message[:300]})"
        ) from error


class Watch:
    """Watches the steps of a run on several hosts; does nothing on a single host.

    TensorFlow detects a host whose process is gone or frozen within about 10 seconds: its
    operations fail. A host that is alive but does not reach its step, for example because it waits
    for images, shows in the time the others' step takes: they report what they wait for, and exit.

    Attributes:
      waiting: bool variable; the step sets it while it waits for data.
    """

    def __init__(self, seconds: float | None = None):
        """seconds: the most a step may take; None: `HANGING_AFTER`."""
        self._strategy = tf.distribute.get_strategy()
        self._seconds = HANGING_AFTER if seconds is None else seconds
        self._step, self._since, self._patience = 0, None, 3.0
        self._ended = threading.Event()
        with tf.device("/cpu:0"):
            self.waiting = tf.Variable(False, trainable=False, name="waiting_for_data")

    def __enter__(self) -> Watch:
        if several_hosts(self._strategy):
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()

    @contextlib.contextmanager
    def step(self, step: int):
        """Wraps a step, or several steps in one call."""
        self._step, self._since = step, time.monotonic()
        try:
            yield
        finally:
            self._since, self._patience = None, 1.0

    def _watch(self):
        while not self._ended.wait(1.0):
            since, limit = self._since, self._seconds * self._patience
            if since is not None and time.monotonic() - since > limit:
                print(f"error: {self._hanging(limit)}", file=sys.stderr, flush=True)
                os._exit(STOPPED)  # The main thread waits inside TensorFlow and cannot be called.

    def _hanging(self, limit: float) -> str:
        """Describes the state of each host, as far as it reports it."""
        names, own = host_names(self._strategy)
        state = "waits for data" if self.waiting.numpy() else "waits for the others"
        key = f"tf_simclr/hanging/{self._step}/"
        store = context.context()
        with contextlib.suppress(tf.errors.OpError):
            store.set_config_key_value(key + str(own), state)
        time.sleep(_ANSWER)
        states = []
        for i, name in enumerate(names):
            try:
                answer = tf.compat.as_text(store.get_config_key_value(key + str(i), 1000))
            except tf.errors.OpError:
                answer = "does not answer"
            states.append(f"{name} {answer}")
        return (
            f"step {self._step} has not ended within {limit:.0f} seconds: {'; '.join(states)}. "
            f"Look at a host that does not answer or waits for data. {_RESUME}"
        )
