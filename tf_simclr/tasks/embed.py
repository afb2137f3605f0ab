"""--mode=embed: the vector of every image of --train_split, in a table that others read."""

from __future__ import annotations

import dataclasses

from absl import logging

from tf_simclr import features
from tf_simclr.config import Config
from tf_simclr.embeddings import write_table
from tf_simclr.errors import printable
from tf_simclr.models.encoder_interface import trace_on_images
from tf_simclr.tasks import build


def run(config: Config, strategy) -> None:
    """Writes the table, or resumes it; prints its folder."""
    skip = config.skip_bad_images
    # Bad images are found when they are embedded: no pass over all of them at each start.
    opened = dataclasses.replace(config, skip_bad_images=False)
    source = build.source_of(opened, config.train_split, keep_bad_images=skip)
    with strategy.scope():
        encoder = build.given_encoder(config)
    features.check_channels(encoder, source)
    trace_on_images(encoder, [1, config.image_size, config.image_size, source.channels])
    folder, shard = build.table_of(config), config.shard_of()
    written = write_table(
        encoder,
        source,
        folder,
        kind=config.table_format,
        image_size=config.image_size,
        batch_size=config.eval_batch_size,
        strategy=strategy,
        shard=shard,
        skip_bad_images=skip,
    )
    left_out = f", {written.bad} left out (_bad_images.json)" if written.bad else ""
    if written.complete:
        logging.info("%d images are in the table%s.", written.rows, left_out)
        print(printable(folder))
    else:
        logging.info(
            "Shard %d/%d is done: %d images%s. The table is put in place once the others are.",
            *(*shard, written.rows, left_out),
        )
