"""What the evaluation modes share: the encoder to judge, its baselines, labelled splits."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr import storage
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import Config
from tf_simclr.data.bad_images import listed
from tf_simclr.data.pipeline import require_labels
from tf_simclr.errors import UserError, printable
from tf_simclr.export import refresh_card
from tf_simclr.features import raw_pixels, represent
from tf_simclr.models.encoder_interface import trace_on_images
from tf_simclr.report import write_report
from tf_simclr.tasks import build
from tf_simclr.workdir import Workdir

TRAINED, RANDOM, PIXELS = "trained encoder", "random encoder", "raw pixels"


def encoder_path(config: Config) -> str:
    """Where the encoder to judge or to start from is."""
    return config.init_from or config.workdir


def labelled_splits(config: Config):
    """(train source, eval source), both with labels; warns where their classes differ.

    Raises:
      UserError: all that is wrong with either: no such split, no labels; or no class is in both.
    """
    sources, problems = [], []
    for split in (config.train_split, config.eval_split):
        try:
            source = build.source_of(config, split)
            require_labels(source)
            sources.append(source)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; also: ".join(dict.fromkeys(problems)))
    _compare_classes(config, *sources)
    return tuple(sources)


def smallest_class(source) -> tuple[str, int]:
    """(name, number of images) of the smallest class that has any."""
    present, counts = np.unique(source.labels, return_counts=True)
    return source.class_names[present[counts.argmin()]], int(counts.min())


def _compare_classes(config, train, evaluated):
    """Warns of classes that only one split has images of; refuses splits that share none."""
    both = [[s.class_names[label] for label in np.unique(s.labels)] for s in (train, evaluated)]
    here, there = map(set, both)
    if not here & there:
        raise UserError(
            f"--train_split={config.train_split} and --eval_split={config.eval_split} of "
            f"{train.name!r} have no class in common: {listed(both[0])}, and {listed(both[1])}."
        )
    rows = (
        (config.train_split, here - there, "so none of their images is evaluated"),
        (config.eval_split, there - here, "so their images always count as wrong"),
    )
    for split, only, effect in rows:
        if only:
            logging.warning(
                "%d class(es) are in %s only, %s: %s.",
                len(only),
                split,
                effect,
                listed(sorted(only)),
            )


def feature_sets(config: Config, sources) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields (name, features of each source): the trained encoder, then the baselines."""
    sizes = {"image_size": config.image_size, "batch_size": config.eval_batch_size}
    trained = load_encoder_from(encoder_path(config))
    check_channels(trained, sources[0])
    trace_on_images(trained, [1, config.image_size, config.image_size, sources[0].channels])

    def features(encoder, name):
        return [represent(encoder, source, name=name, **sizes) for source in sources]

    yield TRAINED, features(trained, TRAINED)
    if config.baselines:
        yield RANDOM, features(untrained_like(trained, config.seed), RANDOM)
        yield PIXELS, [raw_pixels(source, **sizes) for source in sources]


def check_channels(encoder: tf.keras.Model, source) -> None:
    """Raises UserError where the encoder was made for images of other channels."""
    expected = encoder.input_shape[-1]
    if expected != source.channels:
        raise UserError(
            f"the encoder takes images of {expected} channel(s), {source.name!r} has "
            f"{source.channels}; pass --channels={expected} or another --init_from."
        )


def untrained_like(encoder: tf.keras.Model, seed: int) -> tf.keras.Model:
    """The same architecture with random weights."""
    tf.keras.utils.set_random_seed(seed)
    return type(encoder).from_config(encoder.get_config())


def tell(config: Config, mode: str, numbers: dict, lines: list[str]) -> None:
    """Writes the numbers into the workdir and prints them."""
    if config.init_from:  # Such numbers must not reach the card of the workdir's own encoder.
        numbers = {**numbers, "init_from": config.init_from}
    tf.io.gfile.makedirs(config.workdir)
    Workdir(config.workdir).keep_result(mode, numbers)
    print("\n".join(map(printable, lines)))


def refresh(config: Config) -> None:
    """Brings the report, and the card of the encoder in the workdir, up to date."""
    workdir = Workdir(config.workdir)
    if not config.init_from:  # Else the numbers are of another encoder than the one beside them.
        refresh_card(workdir / "encoder", workdir.results())
    write_report(config.workdir)


def keep_embeddings(config: Config, source, features: dict[str, np.ndarray]) -> None:
    """Writes WORKDIR/embeddings.npz, from which the report draws its map of the representation."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        trained=features[TRAINED],
        labels=source.labels,
        class_names=np.array(source.class_names),
        **({"pixels": features[PIXELS]} if PIXELS in features else {}),
    )
    storage.write_whole(Workdir(config.workdir) / "embeddings.npz", buffer.getvalue())
