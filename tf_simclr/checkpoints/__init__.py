"""A run's state on disk: written whole or not at all, restored strictly; loads encoders.

A checkpoint is what `tf.train.Checkpoint(**parts).write` makes (`ckpt-<step>.index`, `.data-*`), so
any TensorFlow program can read it; `manifest.json` alongside it says how to rebuild the encoder.
"""

from tf_simclr.checkpoints.encoder import load_encoder_from, start_from
from tf_simclr.checkpoints.files import steps_in
from tf_simclr.checkpoints.restoring import RestoreReport, restore, variable_paths
from tf_simclr.checkpoints.run import RunCheckpoints

__all__ = [
    "RestoreReport",
    "RunCheckpoints",
    "load_encoder_from",
    "restore",
    "start_from",
    "steps_in",
    "variable_paths",
]
