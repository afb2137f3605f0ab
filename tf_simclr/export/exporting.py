"""Exporting: one prepared encoder, every format, one folder that appears whole."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.export.card import card_files, card_of
from tf_simclr.export.exportable import exportable, log_left_out
from tf_simclr.export.folder import check_replaceable, replacing
from tf_simclr.export.formats import write_formats
from tf_simclr.stack import keras


def export_encoder(
    encoder: keras.Model,
    directory,
    *,
    image_size: int | None = None,
    crop_proportion: float | None = None,
    card: dict[str, Any] | None = None,
) -> str:
    """Writes the encoder in every format of `FORMATS`, with a card that describes it.

    What is exported has plain batch normalisation, every layer trainable and float32 in place of
    mixed precision, whatever strategy or frozen layers the encoder has now. The folder appears
    whole: an earlier export there is replaced only when the new one is complete.

    The .keras file is left out if `load_encoder_from` could not load it, as with Lambda layers and
    with classes that are not registered with Keras; the signature "endpoints" is left out if the
    encoder is not a functional model. The log and the card say so. Losses that layers compute from
    images (activity regularisation) are not exported; those of weights are.

    Args:
      encoder: Keras model, images float32 [N, H, W, C] in [0, 1] to h [N, D]: functional, or any
        other model or layer that was called once. `check_exportable` checks it before training.
      directory: the folder to make; an earlier export there is replaced, any other content is not.
      image_size: to what side the "uint8" signature resizes images; None: the size that the
        encoder's input fixes, or if it fixes none, images are taken as they are.
      crop_proportion: share of the shorter side that the "uint8" signature keeps, in (0, 1];
        None: 0.875, or all of it at 32 pixels and below.
      card: JSON-ready facts for the card, such as "trained_on", "method", "results".

    Returns:
      The folder.

    Raises:
      UserError: the encoder cannot be exported, an argument is out of range, the folder holds
        something else or cannot be written; what was there stays.
    """
    directory = os.fspath(directory).rstrip("/")
    if crop_proportion is not None and not 0.0 < crop_proportion <= 1.0:
        raise UserError(f"crop_proportion must lie in (0, 1]; received {crop_proportion!r}.")
    check_replaceable(directory)
    with exportable(encoder, image_size, crop_proportion) as found:
        try:
            with replacing(directory) as new:
                facts = write_formats(found, new)
                for name, content in card_files(card_of(found, facts, card or {})).items():
                    # The folder is replaced whole, so its files need not be.
                    with tf.io.gfile.GFile(os.path.join(new, name), "w") as file:
                        file.write(content)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"the encoder cannot be written to {directory}: {error}") from error
    log_left_out(found.left_out)
    return directory
