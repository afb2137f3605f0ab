"""From Config to what a task reads: sources, labelled splits, and batches of two views."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.config import Config
from tf_simclr.data.bad_images import listed
from tf_simclr.data.pipeline import labelled_dataset, require_labels, two_view_dataset
from tf_simclr.data.sources import in_memory, memory_limit, open_source
from tf_simclr.errors import UserError
from tf_simclr.evaluation.labelled import Labelled
from tf_simclr.losses import LOSSES
from tf_simclr.workdir import Workdir


def source_of(config: Config, split: str, keep_bad_images: bool = False, exclude_list: str = ""):
    """Opens a split of the data set; the other arguments as in `open_source`."""
    return open_source(
        config.dataset,
        config.data_dir or None,
        split,
        channels=config.channels or None,
        skip_bad_images=config.skip_bad_images,
        keep_bad_images=keep_bad_images,
        follow_links=config.follow_links,
        label=config.label,
        cache="off" if config.cache_side else config.cache,  # Unreduced images are not cached.
        listing_file=Workdir(config.workdir) / "listing.npz" if config.workdir else None,
        exclude_list=exclude_list,
    )


def unchecked_source(config: Config, split: str):
    """Opens a split for modes that find bad images while they read them: no pass over all before.

    With --skip_bad_images files that cannot be images are kept, and the mode leaves them out.
    """
    opened = dataclasses.replace(config, skip_bad_images=False)
    return source_of(opened, split, keep_bad_images=config.skip_bad_images)


def training_source(config: Config, keep_bad_images: bool = False):
    """Opens --train_split without what --exclude_list names: the images that a run trains on."""
    return source_of(config, config.train_split, keep_bad_images, config.exclude_list)


def evaluated_on(config: Config) -> Config:
    """The config with --eval_dataset, if given, as its data set."""
    if not config.eval_dataset:
        return config
    shared = "" if "folder" in (config.dataset, config.eval_dataset) else config.data_dir
    return dataclasses.replace(
        config,
        dataset=config.eval_dataset,
        data_dir=config.eval_data_dir or shared,  # TFDS sets share one folder.
        label="",
        eval_dataset="",
        eval_data_dir="",
    )


def labelled_splits(config: Config):
    """(train source, eval source), both with labels; warns if their classes differ.

    Raises:
      UserError: a split does not exist or has no labels (reported for both at once), or the splits
        have no class in common.
    """
    sources, problems = [], []
    for split in (config.train_split, config.eval_split):
        try:
            source = source_of(config, split)
            require_labels(source)
            sources.append(source)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; also: ".join(dict.fromkeys(problems)))
    _compare_classes(config, *sources)
    return tuple(sources)


def labelled(source) -> Labelled:
    """The labels of a source, for evaluators."""
    return Labelled(source.labels, source.class_names, source.split)


def online_splits(config: Config, channels: int):
    """Opens the labelled splits for `--eval_every_epochs`; returns None without that setting.

    Args:
      config: settings of the training run.
      channels: number of channels of the training images; evaluation decodes to as many.

    Raises:
      UserError: the splits cannot be opened or have no labels; see `labelled_splits`.
    """
    if not config.eval_every_epochs:
        return None
    sources = labelled_splits(dataclasses.replace(evaluated_on(config), channels=channels))
    return tuple(some_of(source, config.eval_max_images, config.seed) for source in sources)


def some_of(source, most: int, seed: int):
    """At most `most` images of a source, chosen at random; 0: all."""
    if not 0 < most < source.num_examples:
        return source
    return source.take(np.sort(np.random.default_rng(seed).permutation(source.num_examples)[:most]))


def _compare_classes(config: Config, train, evaluated) -> None:
    """Warns of classes that are in one split only; raises UserError if none are in both."""
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
            found = listed(sorted(only))
            logging.warning("%d class(es) are in %s only, %s: %s.", len(only), split, effect, found)


def for_training(config: Config, source):
    """The source with its images in memory, if --cache allows it."""
    if config.data_service:  # The service's workers decode the images.
        return source
    return in_memory(source, memory_limit(config.cache), config.cache_side)


def needs_labels(config: Config) -> bool:
    """Whether the loss of a pretraining run needs labels."""
    return LOSSES[config.loss].needs_labels


def require_labels_to_train(config: Config, source) -> None:
    """Raises UserError if the loss or the online probe needs labels and there are none."""
    if config.lineareval_while_pretraining or needs_labels(config):
        require_labels(source)


def view_options(config: Config) -> dict:
    """The arguments of `two_view_dataset` that define the views."""
    return {
        "color_jitter_strength": config.color_jitter_strength,
        "color_jitter_probability": config.color_jitter_probability,
        "grayscale_probability": config.grayscale_probability,
        "blur": config.use_blur,
        "blur_probability": config.blur_probability,
        "flip_probability": config.flip_probability,
        "crop_area": (config.crop_area_min, 1.0),
    }


def two_view_batches(config: Config, source, context, *, start_step: int = 0) -> tf.data.Dataset:
    """Batches of two views from `start_step` on, each with a labelled batch if there is a probe."""
    views = two_view_dataset(
        source,
        batch_size=config.train_batch_size,
        image_size=config.image_size,
        seed=config.seed,
        start_step=start_step,
        input_context=context,
        data_service=context and config.data_service,  # Not needed for the batch to show.
        labels=needs_labels(config),
        **view_options(config),
    )
    if not config.lineareval_while_pretraining:
        return views
    labelled = labelled_dataset(
        source,
        batch_size=config.train_batch_size,
        image_size=config.image_size,
        seed=config.seed + 1,
        start_step=start_step,
        random_crop=False,
        input_context=context,
    )
    return tf.data.Dataset.zip((views, labelled))
