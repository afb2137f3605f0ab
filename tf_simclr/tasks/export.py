"""--mode=export: writes the encoder of a checkpoint as a SavedModel and in other formats."""

from __future__ import annotations

from absl import logging

from tf_simclr.config import IMAGENET, Config
from tf_simclr.export import export_encoder
from tf_simclr.tasks import build, exported
from tf_simclr.workdir import Workdir, results_of_encoder


def run(config: Config, strategy) -> None:
    """Exports the encoder of --init_from, or of the run in --workdir, to WORKDIR/encoder."""
    del strategy
    options = exported.options_of(config)
    workdir = Workdir(config.workdir)
    workdir.warn_of_pattern()
    # A workdir can hold results of several encoders; the card shows only those of this one.
    results = results_of_encoder(config.workdir, config.init_from)
    directory = export_encoder(
        build.given_encoder(config),
        workdir / "encoder",
        **options,
        card=exported.card_of(
            config,
            "ImageNet"
            if config.init_from == IMAGENET
            else f"{config.dataset} ({config.train_split})",
            f"exported from {config.init_from or config.workdir}",
            results=results,
        ),
    )
    logging.info("The encoder is in %s.", directory)
    print(directory)
