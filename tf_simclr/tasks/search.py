"""--mode=search: the nearest images in a table of embeddings, as text, JSON and a contact sheet."""

from __future__ import annotations

import os

import tensorflow as tf
from absl import logging

from tf_simclr import search, storage
from tf_simclr.config import Config
from tf_simclr.data.sources import open_source
from tf_simclr.embeddings import open_table
from tf_simclr.errors import UserError, printable
from tf_simclr.tasks import build

gfile = tf.io.gfile


def run(config: Config, strategy) -> None:
    """Searches for --query; prints the answers and writes nearest.json and nearest.html."""
    table = open_table(build.table_of(config))
    queries = _queries(config, strategy, table)
    backend = search.resolve(config.search_backend, table)
    folder = config.search_dir or table.folder + ".search"
    found = search.answers(table, queries, config.neighbors, search.BACKENDS[backend], folder)
    with storage.naming(folder):
        gfile.makedirs(folder)
    pages = {
        "nearest.json": search.as_json(table, found, backend),
        "nearest.html": search.contact_sheet(found, f"{len(table):,} images of {table.folder}"),
    }
    for name, page in pages.items():
        storage.write_whole(os.path.join(folder, name), page.encode())
    print("\n".join(search.as_text(found)))
    logging.info("The same with pictures: %s", printable(os.path.join(folder, "nearest.html")))


def _queries(config: Config, strategy, table) -> search.Queries:
    """The vectors of --query: of the row with this path, or else of images by the encoder."""
    path = os.path.expanduser(config.query)
    found = search.of_key(table, config.query, os.path.abspath(path))
    if found is not None:
        return found
    if not gfile.exists(path):
        raise UserError(
            f"--query={config.query} is neither a path in the table {table.folder} nor an image or "
            "a folder here."
        )
    channels = table.facts["channels"]
    if gfile.isdir(path):
        names = None
        source = open_source(
            *("folder", path),
            channels=channels,
            skip_bad_images=config.skip_bad_images,
            follow_links=config.follow_links,
        )
    else:
        names = [path]
        source = search.image_of(path, channels)
    if not (config.init_from or config.workdir):
        raise UserError(
            f"--query={config.query} is not in the table, so it needs the encoder of the table: "
            "pass --init_from or --workdir."
        )
    with strategy.scope():
        encoder = build.given_encoder(config)
    batch = config.eval_batch_size
    return search.of_encoder(
        table, encoder, source, batch_size=batch, names=names, strategy=strategy
    )
