"""Virtual replicas for tests."""

from __future__ import annotations

import functools

import tensorflow as tf


@functools.cache
def mirrored(replicas: int) -> tf.distribute.Strategy:
    """A MirroredStrategy over virtual CPUs, with its own collective keys.

    Every MirroredStrategy of a process starts at the same group key, so a second one on the same
    devices joins the first one's groups and fails. TensorFlow's own tests shift the keys like this.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
