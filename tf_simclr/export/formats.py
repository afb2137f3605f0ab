"""The formats of an exported encoder. To add one, write its function and add an entry here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.errors import UserError, brief
from tf_simclr.export import keras_file, saved_model
from tf_simclr.export.exportable import KERAS_FILE, Exportable

gfile = tf.io.gfile


@dataclasses.dataclass(frozen=True)
class Format:
    """One form in which the encoder is written.

    Attributes:
      name: how the card and the log call it.
      files: the files and folders that it makes in the export, by name.
      write: (exportable, folder) -> facts for the card, a dictionary, or None. Raises any exception
        if the encoder cannot be written in this format. An OSError or tf.errors.OpError ends the
        whole export, because the disk failed; FileNotFoundError does not, because a missing program
        raises it.
      check: (exportable, folder) -> None; raises, as `write` does, if what was written is not the
        encoder. None: only the existence of the files is checked.
      required: whether there is no export without it. Other formats are left out if they fail, and
        the card gives the reason.
      use: lines of Python for the card that load the format from "this/folder".
    """

    name: str
    files: tuple[str, ...]
    write: Callable[[Exportable, str], dict[str, Any] | None]
    check: Callable[[Exportable, str], None] | None = None
    required: bool = False
    use: str = ""


FORMATS = [
    Format(
        saved_model.NAME,
        ("saved_model.pb", "variables"),
        saved_model.write,
        saved_model.check,
        required=True,
        use=saved_model.USE,
    ),
    Format(
        KERAS_FILE,
        (KERAS_FILE,),
        keras_file.write,
        keras_file.check,
        use=f'encoder = tf.keras.models.load_model("this/folder/{KERAS_FILE}")',
    ),
]


def write_formats(found: Exportable, folder: str) -> dict[str, Any]:
    """Writes and checks every format; adds to `found.left_out` those that cannot be written.

    Args:
      found: the encoder.
      folder: where to write; it exists.

    Returns:
      What the card says: "formats", {name: its files}, and the facts of each format.

    Raises:
      UserError: a required format cannot be written.
      OSError: the disk failed.
    """
    facts: dict[str, Any] = {"formats": {}}
    for form in FORMATS:
        if form.name in found.left_out:
            continue
        before = _names(folder)
        try:
            said = form.write(found, folder) or {}
            _check(form, found, folder)
        except Exception as error:  # Layers of the caller, and converters, can fail in any way.
            if _is_of_disk(error):
                raise OSError(f"{form.name}: {error}") from error
            if form.required:
                raise UserError(
                    f"encoder {found.model.name!r} cannot be exported as {form.name}: "
                    f"{brief(error)}"
                ) from error
            found.left_out[form.name] = brief(error)
            for name in _names(folder) - before:
                path = os.path.join(folder, name)
                gfile.rmtree(path) if gfile.isdir(path) else gfile.remove(path)
        else:
            formats = {**facts["formats"], form.name: list(form.files)}
            facts = {**facts, **said, "formats": formats}
    return facts


def _is_of_disk(error: Exception) -> bool:
    of_files = isinstance(error, (OSError, tf.errors.OpError))
    return of_files and not isinstance(error, FileNotFoundError)


def _check(form: Format, found: Exportable, folder: str) -> None:
    missing = sorted(set(form.files) - _names(folder))
    if missing:
        raise UserError(f"it did not write {', '.join(missing)}.")
    if form.check is not None:
        form.check(found, folder)


def _names(folder: str) -> set[str]:
    return {name.rstrip("/") for name in gfile.listdir(folder)}
