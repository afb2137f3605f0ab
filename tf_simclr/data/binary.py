"""Numbers from the bytes of a file, in the graph, where any place may be beyond the end."""

from __future__ import annotations

import tensorflow as tf


def either(condition, yes, no):
    """tf.where of int64: it does not convert Python's integers to that by itself."""
    return tf.where(condition, tf.cast(yes, tf.int64), tf.cast(no, tf.int64))


def byte(contents, place):
    """A byte as int64; 0 beyond the end."""
    return numbers(contents, place, 1, tf.uint8)[0]


def numbers(contents, place, count, dtype, big_endian=True):
    """Unsigned integers as int64 [count]; zeros beyond the end."""
    size = count * dtype.size
    values = tf.io.decode_raw(
        piece(contents, place, size),
        dtype,
        little_endian=not big_endian,
        fixed_length=size if isinstance(size, int) else tf.cast(size, tf.int32),
    )
    if isinstance(count, int):
        values.set_shape([count])
    values = tf.cast(values, tf.int64)
    return values & 0xFFFFFFFF if dtype == tf.int32 else values


def piece(contents, place, size):
    """Some bytes, or fewer at the end."""
    if isinstance(place, int):
        place = tf.constant(place, tf.int64)
    # A place beyond the end would be an error with the file's bytes in its text, which Python
    # cannot read.
    place = tf.minimum(place, tf.cast(tf.strings.length(contents), tf.int64))
    size = tf.constant(size, tf.int64) if isinstance(size, int) else tf.maximum(size, 0)
    return tf.strings.substr(contents, place, size)


def contains(contents, word):
    """Whether a word occurs anywhere in a file, bool scalar; no regular expressions."""
    # tf.strings has no search for a substring; removing the first match does it in one fast pass.
    without = tf.strings.regex_replace(contents, word, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(contents)
