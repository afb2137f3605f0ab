"""What is searched for: a row of the table, or images that the table's encoder gets."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tf_simclr import features
from tf_simclr.data.decoding import MAX_BYTES, decode
from tf_simclr.data.sources import array_source
from tf_simclr.embeddings import Table, text_of
from tf_simclr.errors import UserError, printable


@dataclasses.dataclass(frozen=True)
class Queries:
    """Vectors to search for.

    Attributes:
      h: float32 [M, D].
      paths: their images' paths.
      own: for each, the row of the table that it is, which is not among its answers; -1 for none.
    """

    h: np.ndarray
    paths: list[str]
    own: np.ndarray


def shown(path: str) -> str:
    """A path as one printable line: newlines and bytes that are not UTF-8 are escapes."""
    return printable(text_of(path))


def of_key(table: Table, *names: str) -> Queries | None:
    """The row of a table with one of these paths; None if there is none.

    Args:
      table: the table.
      names: a path of the table, or what `shown` makes of it, as not every character can be typed.
        The first row with one of them is taken.
    """
    folder = table.facts.get("folder")
    wanted = {name for name in names if not folder or name.startswith((folder, shown(folder)))}
    if not wanted:  # Then the table need not be read.
        return None
    for first, part in table.parts():
        for i, path in enumerate(part.paths):
            if path in wanted or (not path.isprintable() and shown(path) in wanted):
                return Queries(part.h[i : i + 1].copy(), [path], np.array([first + i]))
    return None


def check_encoder(table: Table, encoder) -> None:
    """Raises UserError if a table was made with another encoder; names both fingerprints."""
    there, here = table.facts["encoder"], features.encoder_fingerprint(encoder)
    width = int(encoder.output_shape[-1])
    if there != here or table.facts["D"] != width:
        raise UserError(
            f"the table {table.folder} is of another encoder: {there} with vectors of "
            f"{table.facts['D']} numbers there, {here} with {width} here. Pass the encoder that "
            "the table was made with, or make a table with this one."
        )


def image_of(path: str, channels: int):
    """A source of one image file, for `of_encoder`.

    Raises:
      UserError: it is not an image, or cannot be read.
    """
    try:
        if tf.io.gfile.stat(path).length > MAX_BYTES:
            raise UserError(f"--query={path} is above {MAX_BYTES:,} bytes.")
        image = decode(tf.io.read_file(path), channels).numpy()
    except (ValueError, tf.errors.OpError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"--query={path} is not an image that can be read: pass a JPEG, PNG, GIF or BMP file, "
            "a folder of images, or a path in the table."
        ) from error
    return array_source(image[np.newaxis], name=path)


def of_encoder(
    table: Table, encoder, source, *, batch_size: int, names: list[str] | None = None, strategy=None
) -> Queries:
    """The vectors of the images of a source, by the encoder that the table was made with.

    Args:
      table: the table.
      encoder: its encoder; built under the strategy, if there is one.
      source: the images.
      batch_size, strategy: as in `features.represent`.
      names: the images' paths; None: the source's names.

    Raises:
      UserError: the table is of another encoder; an image cannot be read.
    """
    check_encoder(table, encoder)
    features.check_channels(encoder, source)
    h = features.represent(
        encoder,
        source,
        image_size=table.facts["image_size"],
        batch_size=batch_size,
        name="Queries",
        strategy=strategy,
    )
    if not np.isfinite(h).all():
        raise UserError("the encoder gives a vector that is not finite for a query.")
    if names is None:
        names = source.names(np.arange(source.num_examples))
    return Queries(h, names, np.full(len(names), -1))
