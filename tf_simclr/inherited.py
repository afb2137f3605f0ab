"""Settings inherited from an earlier run or an encoder.

Standard library only, except for remote paths, so that a mistyped flag is reported at once.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tf_simclr.errors import UserError
from tf_simclr.flagfile import from_flagfile, from_json

MANIFEST, CARD, RESOLVED = "manifest.json", "card.json", "flags.resolved"


def settings_of_run(workdir: str) -> dict[str, Any]:
    """{name: value} of every setting of the run in a workdir; {} if there is none.

    Raises:
      UserError: WORKDIR/flags.resolved is damaged or cannot be read.
    """
    path = os.path.join(workdir, RESOLVED)
    return from_flagfile(_text(path), path)


def settings_of_encoder(path: str) -> dict[str, Any]:
    """{name: value} of the settings an encoder was made with, as far as they are known.

    They are in a workdir's flags.resolved, in the manifest.json of a checkpoints folder, or in the
    card.json of an exported encoder. A card holds no paths, and a card of an older version only the
    encoder's name and image size. The other settings then come from the run in the export's parent
    folder, if that run agrees with the card.

    Args:
      path: what `load_encoder_from` takes: a workdir, a checkpoints folder, a checkpoint, an
        exported encoder's folder, or a .keras or .h5 file.

    Raises:
      UserError: a file with settings is damaged or cannot be read.
    """
    path = path.rstrip("/") or path
    folder = os.path.dirname(path)
    if path.endswith((".keras", ".h5")):
        return _of_export(folder)
    return (
        settings_of_run(path)
        or _of_checkpoints(os.path.join(path, "checkpoints"))
        or _of_checkpoints(path)
        or _of_export(path)
        or _of_export(os.path.join(path, "encoder"))
        or _of_checkpoints(folder)  # The path of a checkpoint, with or without ".index".
    )


def _of_checkpoints(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, MANIFEST)
    return from_json(_json(path).get("flags", {}), path)


def _of_export(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, CARD)
    card = _json(path)
    if not card:
        return {}
    known = card.get("settings")
    if known is None:
        images = card.get("input")
        size = images.get("image_size") if isinstance(images, dict) else None
        known = {"encoder": card.get("encoder"), "image_size": None if size == "any" else size}
    known = from_json(known, path)
    around = os.path.dirname(os.path.abspath(folder) if _is_local(folder) else folder)
    run = settings_of_run(around)
    agrees = "image_size" in known and all(
        run.get(name, value) == value for name, value in known.items()
    )
    return {**run, **known} if agrees else known


def _is_local(path: str) -> bool:
    return "://" not in path


def _json(path: str) -> dict[str, Any]:
    """The object in a JSON file; {} if there is no file."""
    text = _text(path)
    if not text:
        return {}
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            return content
    except (ValueError, RecursionError):
        pass
    raise UserError(f"{path} is not a JSON object; restore the file.")


def _text(path: str) -> str:
    """The text of a file; "" if there is no file."""
    try:
        if not _is_local(path):
            import tensorflow as tf  # Slow, and needed for remote paths only.

            with tf.io.gfile.GFile(path, "r") as file:
                return file.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except Exception as error:  # Not text, or no permission; remote storage can fail in any way.
        if type(error).__name__ == "NotFoundError":
            return ""
        raise UserError(f"{path} cannot be read: {error}") from error
