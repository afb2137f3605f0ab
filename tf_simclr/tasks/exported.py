"""What the settings decide of an exported encoder: its formats, and what its card says."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import numpy as np

from tf_simclr.config import Config
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.export import formats_named
from tf_simclr.tasks import inputs

_REPRESENTATIVE = 128  # Images.


def formats_of(config: Config) -> tuple[str, ...]:
    """The formats to export, checked.

    Raises:
      UserError: a name is unknown, or a package is missing.
    """
    names = tuple(name.strip() for name in config.export_formats.split(",") if name.strip())
    formats_named(names)
    return names


def options_of(config: Config, source=None) -> dict[str, Any]:
    """The arguments of `export_encoder` that the settings decide.

    Args:
      config: the settings.
      source: images such as the encoder was trained on; None: --train_split, opened if a format
        needs images.

    Raises:
      UserError: a format is unknown, or a package is missing.
    """
    return {
        "image_size": config.image_size,
        "formats": formats_of(config),
        "representative_images": lambda: _some_images(
            config, source or inputs.source_of(config, config.train_split)
        ),
    }


def _some_images(config: Config, source) -> np.ndarray:
    source = inputs.some_of(source, _REPRESENTATIVE, config.seed)
    dataset = eval_dataset(source, batch_size=32, image_size=config.image_size)
    with naming_bad_images(source):
        return np.concatenate(list(dataset.as_numpy_iterator()))


def card_of(config: Config, trained_on: str, method: str, **more: Any) -> dict[str, Any]:
    """The card of an exported encoder, which says how it was made.

    "settings" holds what a mode needs to start from this encoder alone, and nothing about the
    machine, such as paths.
    """
    settings = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata["group"] in ("Data", "Model")
        and not field.metadata["path"]
        and not field.metadata["once"]
    }
    return {
        "encoder": config.encoder,
        "trained_on": trained_on,
        "method": method,
        "date": datetime.date.today().isoformat(),
        **more,
        "settings": settings,
    }
