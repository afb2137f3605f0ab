"""What a run says of itself: beside its checkpoints, and beside the encoder it exports."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os

import tensorflow as tf

from tf_simclr import __version__
from tf_simclr.config import Config
from tf_simclr.errors import UserError


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


def check_same_images(checkpoints: str, source) -> None:
    """Raises UserError where checkpoints were made from other images than the source's.

    The batch of a step follows from the images' numbers, so a run cannot go on with others.
    """
    path = os.path.join(checkpoints, "manifest.json")
    if not tf.io.gfile.exists(path):
        return
    with tf.io.gfile.GFile(path, "r") as file:
        saved = json.loads(file.read()).get("dataset", {}).get("fingerprint")
    if saved not in (None, source.fingerprint):
        raise UserError(
            f"the images of {source.name!r} are not those that the run in {checkpoints} was "
            f"trained on (fingerprint {source.fingerprint}, was {saved}): files came, went or "
            "changed. Bring them back, or use another --workdir."
        )
