"""What losses sum over a view's negatives: a function phi of each logit, with its slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Term(NamedTuple):
    """A sum over the negatives k of row i, F(sum_k phi(x_ik)), with x_ik = u_i . u_k.

    Its gradient in x_ik is w_i phi'(x_ik) for a weight w_i, which lets tiles use it row by row.
    """

    of: Callable
    """phi, elementwise; for tiles."""
    slope: Callable
    """phi', elementwise; for tiles."""
    finish: Callable
    """F."""
    weight: Callable
    """w_i from (F of the sum, upstream gradient)."""
    whole: Callable
    """F(sum) over the columns of a whole matrix of logits, at any logit; masked ones are -1e9."""
    whole_slope: Callable
    """w_i phi'(x_ik) from (logits, F of the sum, upstream gradient), at any logit."""
    largest_logit: float
    """The largest |logit| at which tiles neither overflow nor vanish."""


LOG_SUM_EXP = Term(
    of=tf.exp,
    slope=tf.exp,
    finish=tf.math.log,
    weight=lambda log_z, upstream: upstream * tf.exp(-log_z),
    whole=lambda logits: tf.reduce_logsumexp(logits, axis=1),
    whole_slope=lambda logits, log_z, upstream: tf.exp(logits - log_z) * upstream,
    # With a million such logits, the sum Z of their exponentials and 1e-6 / Z still fit float32.
    largest_logit=50.0,
)

SUM_SOFTPLUS = Term(
    of=tf.nn.softplus,
    slope=tf.sigmoid,
    finish=tf.identity,
    weight=lambda total, upstream: upstream,
    whole=lambda logits: tf.reduce_sum(tf.nn.softplus(logits), axis=1),
    whole_slope=lambda logits, total, upstream: tf.sigmoid(logits) * upstream,
    largest_logit=math.inf,
)
