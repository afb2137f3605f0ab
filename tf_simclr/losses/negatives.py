"""The negatives of NT-Xent: for every view, the sum over the views of all other images.

The forward pass gathers the embeddings, the backward pass two numbers per row. In between is a
matrix product, either whole (`dense`) or in tiles (`streaming`).
"""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.distribute import gather_others, num_replicas
from tf_simclr.losses import dense, streaming

_STREAM_FROM = 2**20
"""Entries of the matrix of logits, 512 pairs on one replica (benchmarks/nt_xent.py, untiled)."""


def log_sum_of_negatives(
    u: tf.Tensor, bar: tf.Tensor | None = None, *, largest_logit: float
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """log Z_i = log sum_k exp(u_i . u_k) over the views k of other images, of all replicas.

    Differentiable in u. Other replicas' rows also contribute gradients to this replica's rows. Each
    replica sends two numbers per row instead of gradients: log Z and its gradient g, from which
    the others compute them. With s = u_i . u_k,

        dL/du_i = sum_k (g_i exp(s - log Z_i) + g_k exp(s - log Z_k)) u_k.

    A replica receives 4 M D (R - 1) bytes of embeddings a step, of R replicas with M rows each,
    then 8 M (R - 1). Exchanging gradients would be 4 M D (R - 1) a second time.

    Args:
      u: [M, D] float32, as many on every replica; the two views of an image in rows 2k and 2k + 1.
      bar: [M] float32, or None.
      largest_logit: an upper bound of |u_i . u_k|.

    Returns:
      (log Z [M] float32, how many negatives have u_i . u_k >= bar_i, [M] int32, None without
      `bar`).
    """
    form = _form(u.shape[0], largest_logit)

    @tf.custom_gradient
    def with_gradient(u):
        others = gather_others(u)
        log_z, reaching = form.forward(u, others, bar)

        def gradient(*upstream):
            mine = tf.stack([log_z, upstream[0]], axis=1)
            return form.backward(u, others, mine, gather_others(mine))

        return (log_z,) if reaching is None else (log_z, reaching), gradient

    log_z, *reaching = with_gradient(u)
    return log_z, reaching[0] if reaching else None


def _form(rows: int | None, largest_logit: float):
    """Tiles for large matrices; they need a size known in advance, and exponentials that fit."""
    fits = rows is not None and largest_logit <= streaming.LARGEST_LOGIT
    return streaming if fits and rows * rows * num_replicas() >= _STREAM_FROM else dense
