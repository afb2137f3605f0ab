"""What a run says of itself: beside its checkpoints, and beside the encoder it exports."""

from __future__ import annotations

import dataclasses
import datetime

import tensorflow as tf

from tf_simclr import __version__
from tf_simclr.config import Config


def manifest(config: Config, source, encoder) -> dict:
    """What a checkpoint says beside its variables; enough to rebuild the encoder."""
    return {
        "encoder": tf.keras.saving.serialize_keras_object(encoder),
        "image_size": config.image_size,
        "flags": dataclasses.asdict(config),
        "dataset": {"name": source.name, "fingerprint": source.fingerprint},
        "versions": {"tf_simclr": __version__, "tensorflow": tf.__version__},
    }


def card(config: Config, trained_on: str, method: str, results: dict) -> dict:
    """What an exported encoder says of its making."""
    return {
        "encoder": config.encoder,
        "trained_on": trained_on,
        "method": method,
        "date": datetime.date.today().isoformat(),
        "results": results,
    }
