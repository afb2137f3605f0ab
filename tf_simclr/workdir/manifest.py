"""What a run records alongside its checkpoints, and the check that a later start matches it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr import __version__
from tf_simclr.errors import UserError
from tf_simclr.stack import keras


def manifest(source, encoder, *, image_size: int, flags: dict[str, Any]) -> dict:
    """The record stored alongside a checkpoint's variables; enough to rebuild the encoder.

    Args:
      source: the images that the run trains on.
      encoder: the Keras model.
      image_size: side of the views in pixels.
      flags: {name: value} of every setting; JSON-ready.
    """
    return {
        "encoder": keras.saving.serialize_keras_object(encoder),
        "image_size": image_size,
        "flags": flags,
        "dataset": {"name": source.name, "fingerprint": source.fingerprint},
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Versions of the software, and the commit of this package if it runs from a checkout."""
    return {
        "tf_simclr": __version__,
        "git_commit": _git_commit(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def check_same_images(checkpoints: str, source, allow_changes: bool = False) -> None:
    """Compares the images, and the versions of software, with the manifest of earlier checkpoints.

    The batch of a step depends on the positions of the images in the set, so a run cannot resume
    exactly with other images. Different versions of the software only cause a warning.

    Raises:
      UserError: the images differ and `allow_changes` is off; or the manifest is unreadable.
    """
    path = os.path.join(checkpoints, "manifest.json")
    if not tf.io.gfile.exists(path):
        return
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            saved = json.loads(file.read())
        fingerprint = saved.get("dataset", {}).get("fingerprint")
        computed = dict(saved.get("versions", {}))
    except (ValueError, AttributeError, TypeError, RecursionError, tf.errors.OpError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or remove it.") from error
    if fingerprint not in (None, source.fingerprint):
        message = (
            f"the images of {source.name!r} are not those that the run in {checkpoints} was "
            f"trained on (fingerprint {source.fingerprint}, was {fingerprint}): files were added, "
            "removed or changed, or --exclude_list names others. Or the run is of an older version "
            "of tf_simclr, which did not read .jfif and .jpe files, read system folders such as "
            "@eaDir, and knew fewer names of split folders"
        )
        if not allow_changes:
            raise UserError(
                f"{message}. Restore the files, use another --workdir, or pass --allow_changes "
                "to continue with the images that are there now."
            )
        logging.warning("%s; continuing with the current images.", message)
    now = versions()
    others = [
        f"{k} {computed[k]}, now {now[k]}" for k in now if computed.get(k) not in (None, now[k])
    ]
    if others:
        logging.warning("The run was started with other versions: %s.", "; ".join(others))


def _git_commit() -> str | None:
    """Commit of the checkout that holds this package, with "-dirty" after changes; else None."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def git(*words):
        return subprocess.run(
            ["git", "-C", package, *words], check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # Fails if the package is untracked.
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
