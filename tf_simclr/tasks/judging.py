"""What the evaluation modes share: the encoder to judge, its baselines, labelled splits."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import Config
from tf_simclr.data.pipeline import require_labels
from tf_simclr.errors import UserError, printable
from tf_simclr.models.encoders import trace_on_images
from tf_simclr.tasks import build
from tf_simclr.tasks.features import raw_pixels, represent
from tf_simclr.tasks.workdir import Workdir

TRAINED, RANDOM, PIXELS = "trained encoder", "random encoder", "raw pixels"


def encoder_path(config: Config) -> str:
    """Where the encoder to judge or to start from is."""
    return config.init_from or config.workdir


def labelled_splits(config: Config):
    """(train source, eval source), both with labels.

    Raises:
      UserError: no labels.
    """
    sources = [build.source_of(config, split) for split in (config.train_split, config.eval_split)]
    for source in sources:
        require_labels(source)
    return sources


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


def conclude(config: Config, mode: str, numbers: dict, lines: list[str]) -> None:
    """Writes the numbers into the workdir and says them."""
    tf.io.gfile.makedirs(config.workdir)
    Workdir(config.workdir).update_result(mode, numbers)
    print("\n".join(map(printable, lines)))


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
    with tf.io.gfile.GFile(Workdir(config.workdir) / "embeddings.npz", "wb") as file:
        file.write(buffer.getvalue())
