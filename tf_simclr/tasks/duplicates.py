"""--mode=duplicates: copies, leaks and outliers, as a table, a contact sheet and a list."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr import duplicates, features, storage
from tf_simclr.config import Config
from tf_simclr.errors import UserError, printable
from tf_simclr.tasks import build, inputs

gfile = tf.io.gfile


def run(config: Config, strategy) -> None:
    """Compares the images of --train_split with each other and with those of evaluation.

    Raises:
      UserError: the settings or the data are invalid.
    """
    skip = config.skip_bad_images
    source = inputs.unchecked_source(config, config.train_split)
    evaluated = _evaluation_set(config)
    encoder = None
    if config.init_from or _holds_encoder(config.workdir):
        encoder = build.encoder_for(config, strategy, source)
    hashes = duplicates.hashes_of(source, skip)
    finder = duplicates.Finder(hashes, config.duplicate_bits)
    groups = duplicates.groups_of(finder)
    neighborhood, vectors, outliers = None, None, None
    if encoder is not None:
        h = _vectors(config, strategy, encoder, source, hashes.bad)
        neighborhood = duplicates.Neighborhood(h, groups, hashes.bad)
        outliers = neighborhood.outliers(config.outliers)
        neighborhood.join(groups, config.duplicate_cosine)
    leaks, leaked = [], np.zeros(0, np.int64)
    if evaluated is not None:
        others = duplicates.hashes_of(evaluated, skip)
        if encoder is not None:
            vectors = _vectors(config, strategy, encoder, evaluated, others.bad)
        share = config.duplicate_cosine
        leaks, leaked = duplicates.leaks_of(finder, groups, others, neighborhood, vectors, share)
    findings = duplicates.Findings(
        source=source,
        groups=groups,
        bad=hashes.bad,
        evaluated=evaluated,
        leaks=leaks,
        leaked=leaked,
        outliers=outliers,
        encoder="" if encoder is None else config.init_from or config.workdir,
        typical=0.0 if neighborhood is None else neighborhood.typical,
    )
    _write(config, findings)


def _write(config, findings):
    folder = config.duplicates_dir or os.path.join(config.workdir, "duplicates")
    lines = _lines(findings)
    with storage.naming(folder):
        gfile.makedirs(folder)
    pages = {
        "duplicates.csv": findings.as_csv(),
        "duplicates.json": findings.as_json(),
        "duplicates.html": duplicates.contact_sheet(findings, lines),
        "exclude.jsonl": findings.exclude_list(),
    }
    for name, page in pages.items():
        storage.write_whole(os.path.join(folder, name), page.encode())
    print("\n".join(map(printable, lines)))
    logging.info("Pictures: %s", printable(os.path.join(folder, "duplicates.html")))
    if pages["exclude.jsonl"]:
        path = os.path.join(folder, "exclude.jsonl")
        logging.info("To train without the copies: --exclude_list=%s", printable(path))


def _lines(findings):
    facts = findings.facts()
    copies = {kind: count for kind, count in facts["copies"].items() if count}
    shown = ", ".join(f"{count} {kind}" for kind, count in copies.items()) or "none"
    lines = [
        f"{facts['images']} images of {facts['data_set']} ({facts['split']}); "
        f"{facts['groups']} group(s) with {sum(copies.values())} copies: {shown}.",
        "Compared by bytes, pixels and perceptual hashes"
        + (f", and by the encoder of {findings.encoder}." if findings.encoder else "; no encoder."),
    ]
    if facts["groups_across_classes"]:
        lines.append(f"{facts['groups_across_classes']} group(s) have images of several classes.")
    if findings.evaluated is not None:
        lines.append(
            f"{len(findings.leaks)} of the {facts['evaluation_images']} images of "
            f"{facts['evaluation_set']} are copies of training images."
        )
    if facts["bad_images"]:
        lines.append(f"{facts['bad_images']} image(s) cannot be read and were not compared.")
    return lines


def _evaluation_set(config):
    """The images of evaluation; None if --dataset has no --eval_split and no other set is given."""
    if not config.eval_dataset and config.eval_split == config.train_split:
        return None
    of = inputs.evaluated_on(config)
    try:
        return inputs.unchecked_source(of, config.eval_split)
    except UserError as error:
        if config.eval_dataset and config.eval_split != config.train_split:
            # A folder without splits is all "train".
            return inputs.unchecked_source(of, config.train_split)
        if config.eval_dataset:
            raise
        logging.info("No leaks are looked for, as there is no evaluation set: %s", error)
        return None


def _holds_encoder(workdir):
    names = ("checkpoints", "encoder")
    return bool(workdir) and any(gfile.exists(os.path.join(workdir, name)) for name in names)


def _vectors(config, strategy, encoder, source, bad):
    """float32 [N, D]; zeros for images that cannot be read."""
    good = np.setdiff1d(np.arange(source.num_examples), bad)
    if not len(good):
        raise UserError(f"none of the images of {source.name!r} can be read.")
    found = features.represent(
        encoder,
        source.take(good) if len(bad) else source,
        image_size=config.image_size,
        batch_size=config.eval_batch_size,
        name="Embedding",
        strategy=strategy,
    )
    h = np.zeros([source.num_examples, found.shape[1]], np.float32)
    h[good] = found
    return h
