"""Shared by the evaluation modes: runs an evaluator on kept features of two labelled splits."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr import features, storage
from tf_simclr.config import Config
from tf_simclr.errors import printable
from tf_simclr.evaluation.evaluators import KNN, Evaluator, LinearProbe
from tf_simclr.export import refresh_card
from tf_simclr.report import write_report
from tf_simclr.tasks import build, inputs
from tf_simclr.workdir import Workdir

TRAINED, RANDOM, PIXELS = "trained encoder", "random encoder", "raw pixels"

# {mode: function from the settings to the mode's evaluator}.
EVALUATORS: dict[str, Callable[[Config], Evaluator]] = {
    "knn_eval": lambda config: KNN(config.knn_k, config.knn_temperature),
    "linear_eval": lambda config: LinearProbe(
        config.label_counts(), config.label_draws, config.seed, config.l2_sweep
    ),
}


def run(
    config: Config,
    strategy: tf.distribute.Strategy,
    lines: Callable[[Evaluator, dict[str, dict[str, Any]], Any], list[str]] | None = None,
    keep_map: bool = False,
) -> None:
    """Evaluates the encoder and its baselines; prints and keeps the numbers.

    Args:
      config: its mode names the evaluator.
      strategy: the strategy under which features are computed.
      lines: function from (evaluator, numbers by features, evaluation split) to the lines to print;
        None: one line per number.
      keep_map: whether to write WORKDIR/embeddings.npz, from which the report draws its map.

    Raises:
      UserError: the settings or the data are invalid; raised before features are computed.
    """
    sources = inputs.labelled_splits(inputs.evaluated_on(config))
    train, test = map(inputs.labelled, sources)
    evaluator = EVALUATORS[config.mode](config).prepare(train, test)
    numbers, kept = {}, {}
    for name, (train_h, test_h) in feature_sets(config, strategy, sources):
        numbers[name] = evaluator.evaluate(train.with_features(train_h), test.with_features(test_h))
        kept[name] = test_h
    workdir = Workdir(config.workdir)
    tf.io.gfile.makedirs(config.workdir)
    # Results of another encoder must not get on the card of the workdir's own encoder.
    of = {"init_from": config.init_from} if config.init_from else {}
    workdir.keep_result(config.mode, {**evaluator.summary(numbers), **of})
    say((lines or _lines)(evaluator, numbers, sources[1]))
    if keep_map:
        _keep_map(workdir, sources[1], kept)
    if not config.init_from:  # Otherwise the results are not of the workdir's encoder.
        refresh_card(workdir / "encoder", workdir.results())
    write_report(config.workdir)


def feature_sets(
    config: Config, strategy: tf.distribute.Strategy, sources
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields (name, features of each source): the trained encoder, then the baselines.

    Features of encoders are kept in WORKDIR/features. Raw pixels are not: computing them is faster
    than reading them.
    """
    folder = os.path.join(config.workdir, "features")
    sizes = {"image_size": config.image_size, "batch_size": config.eval_batch_size}
    used = set()

    def kept(encoder, name):
        for source in sources:
            found = features.keep(encoder, source, folder, name=name, strategy=strategy, **sizes)
            used.add(found.facts["encoder"])
            yield found.array()

    trained = build.encoder_for(config, strategy, sources[0])
    yield TRAINED, list(kept(trained, TRAINED))
    if config.baselines:
        with strategy.scope():
            random = features.untrained_like(trained, config.seed)
        yield RANDOM, list(kept(random, RANDOM))
        yield PIXELS, [features.raw_pixels(source, **sizes) for source in sources]
    features.mention_others(folder, used)


def say(lines: list[str]) -> None:
    """Prints lines, with unprintable characters in names escaped."""
    print("\n".join(map(printable, lines)))


def _lines(evaluator: Evaluator, numbers: dict[str, dict[str, Any]], test) -> list[str]:
    lines = [f"{evaluator.name}, {test.num_examples} images of {test.name}:"]
    for name, found in numbers.items():
        shown = (f"{key} {value:.4g}" for key, value in found.items() if np.isscalar(value))
        lines.append(f"  {name:<16} {', '.join(shown)}")
    return lines


def _keep_map(workdir: Workdir, source, kept: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        trained=kept[TRAINED],
        labels=source.labels,
        class_names=np.array(source.class_names),
        **({"pixels": kept[PIXELS]} if PIXELS in kept else {}),
    )
    storage.write_whole(workdir / "embeddings.npz", buffer.getvalue())
