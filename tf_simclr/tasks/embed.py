"""--mode=embed: the vector of every image of --train_split, in a table that others read."""

from __future__ import annotations

from absl import logging

from tf_simclr.config import Config
from tf_simclr.embeddings import write_table
from tf_simclr.errors import printable
from tf_simclr.tasks import build, inputs


def run(config: Config, strategy) -> None:
    """Writes the table, or resumes it; prints its folder."""
    source = inputs.unchecked_source(config, config.train_split)
    encoder = build.encoder_for(config, strategy, source)
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
        skip_bad_images=config.skip_bad_images,
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
