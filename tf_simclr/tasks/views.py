"""A picture of the views that a run trains on."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr import augment
from tf_simclr.config import Config
from tf_simclr.report import view_grid

SHOWN = 8  # Pairs.


def write_views(path: str, dataset: tf.data.Dataset, config: Config) -> tf.Tensor:
    """Writes the first pairs of views as a PNG.

    Args:
      path: local or any scheme of `tf.io.gfile`.
      dataset: `inputs.two_view_batches`.
      config: what the dataset was made from.

    Returns:
      The pairs, float32 [n, 2, H, W, C] in [0, 1], n at most `SHOWN`.
    """
    element = next(iter(dataset))
    batch = element[0] if config.lineareval_while_pretraining else element
    batch = {name: value[:SHOWN] for name, value in batch.items()}
    views = tf.stack(tf.split(augment.finish_views(batch), 2), axis=1)
    view_grid(path, views.numpy())
    return views
