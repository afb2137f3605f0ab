"""Builds the parts of a run from Config, in the same way for all modes."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import IMAGENET, Config
from tf_simclr.data.bad_images import listed
from tf_simclr.data.pipeline import labelled_dataset, require_labels, two_view_dataset
from tf_simclr.data.sources import in_memory, memory_limit, open_source
from tf_simclr.errors import UserError
from tf_simclr.evaluation.evaluators import KNN
from tf_simclr.evaluation.labelled import Labelled
from tf_simclr.flagfile import from_flagfile, recorded, to_flagfile
from tf_simclr.losses import LOSSES, ContrastiveLoss
from tf_simclr.models.encoders import build_encoder, imagenet_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR
from tf_simclr.models.skipping import saved_form
from tf_simclr.optim.factory import build_optimizer
from tf_simclr.stack import keras
from tf_simclr.training import Plan, Session, make_plan
from tf_simclr.training.online import OnlineEvaluation
from tf_simclr.training.plan import check_shares
from tf_simclr.workdir import Identity, Workdir, manifest


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


def without_check(config: Config) -> Config:
    """The config for modes that find bad images while they read them: no pass before."""
    return dataclasses.replace(config, skip_bad_images=False)


def training_source(config: Config, keep_bad_images: bool = False):
    """Opens --train_split without what --exclude_list names: the images that a run trains on."""
    return source_of(config, config.train_split, keep_bad_images, config.exclude_list)


def given_encoder(config: Config) -> keras.Model:
    """Loads the encoder of --init_from, or else of the run in --workdir.

    Raises:
      UserError: there is none, or it cannot be read or downloaded.
    """
    if config.init_from == IMAGENET:
        return imagenet_encoder(config.encoder)
    return load_encoder_from(config.init_from or config.workdir)


def table_of(config: Config) -> str:
    """The folder of the table of embeddings."""
    return (config.table or os.path.join(config.workdir, "embeddings")).rstrip("/")


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


def online_evaluation(config: Config, strategy, encoder: keras.Model, sources):
    """The function that the training loop calls to evaluate; None without `sources`."""
    if sources is None:
        return None
    train, test = map(labelled, sources)
    return OnlineEvaluation(
        encoder,
        strategy,
        KNN(config.knn_k, config.knn_temperature).prepare(train, test),
        tuple(zip(sources, (train, test))),
        image_size=config.image_size,
        batch_size=config.eval_batch_size,
        most_bytes=memory_limit(config.cache),
    )


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


def plan_of(config: Config, num_examples: int, replicas: int) -> Plan:
    """The plan of a training run.

    Raises:
      UserError: the data set is too small, the warmup too long, or the batch cannot be divided
        evenly.
    """
    plan = make_plan(
        num_examples,
        batch_size=config.train_batch_size,
        epochs=config.train_epochs,
        steps=config.train_steps,
        warmup_epochs=config.warmup_epochs,
        checkpoint_epochs=config.checkpoint_epochs,
        checkpoint_steps=config.checkpoint_steps,
        eval_epochs=config.eval_every_epochs,
        log_steps=config.log_steps,
        learning_rate=config.learning_rate,
        scaling=config.learning_rate_scaling,
    )
    check_shares(config.train_batch_size, replicas, config.micro_batch_size)
    return plan


def fit_batch(config: Config, num_examples: int, replicas: int) -> Config:
    """Reduces a batch larger than the data set to one that the replicas can share.

    With fewer images than replicas the batch stays too large, which `plan_of` reports.

    Raises:
      UserError: the reduced batch is below the minimum of --train_batch_size.
    """
    if config.train_batch_size <= num_examples:
        return config
    batch = max(num_examples - num_examples % replicas, replicas)
    logging.warning(
        "--train_batch_size=%d is more than the %d images there are: a batch has %d.",
        *(config.train_batch_size, num_examples, batch),
    )
    return dataclasses.replace(config, train_batch_size=batch)


def identity_of(config: Config) -> Identity:
    """What identifies the run."""
    return Identity(
        text=to_flagfile(config),
        changed_from=lambda found: config.changed_from(from_flagfile(found)),
    )


def session_of(config: Config, strategy: tf.distribute.Strategy, source) -> Session:
    """The session of a training run in --workdir."""
    return Session(
        config.workdir,
        strategy,
        source,
        identity_of(config),
        allow_changes=config.allow_changes,
        keep_checkpoints=config.keep_checkpoint_max,
    )


def manifest_of(config: Config, source, encoder: keras.Model) -> dict[str, Any]:
    """The manifest that is kept with the run's checkpoints."""
    return manifest(source, encoder, image_size=config.image_size, flags=recorded(config))


def training_options(config: Config) -> dict[str, Any]:
    """The arguments of `Session.train` that are settings of every training mode."""
    return {
        "batch_size": config.train_batch_size,
        "on_trouble": config.on_trouble,
        "steps_per_call": config.steps_per_execution,
        "jit_compile": config.jit_compile,
        "skip_bad_steps": config.skip_bad_steps,
        "max_minutes": config.max_run_time,
    }


def announce(config: Config, source, plan: Plan, replicas: int, step: int) -> None:
    """Logs what the run is about to train."""
    logging.info(
        "%s: %d images, %s, %d px; batch %d on %d replica(s); %d steps of %d per epoch; peak "
        "learning rate %.4g after %d steps.%s",
        source.name,
        source.num_examples,
        config.encoder,
        config.image_size,
        config.train_batch_size,
        replicas,
        plan.total_steps,
        plan.steps_per_epoch,
        plan.peak_learning_rate,
        plan.warmup_steps,
        f" Resuming from step {step}." if step else "",
    )


def encoder_of(config: Config, channels: int) -> keras.Model:
    """Builds the encoder with random weights from the seed."""
    keras.utils.set_random_seed(config.seed)
    return build_encoder(
        config.encoder,
        image_size=config.image_size,
        channels=channels,
        width_multiplier=config.width_multiplier,
        sk_ratio=config.sk_ratio,
        se_ratio=config.se_ratio,
        batch_norm_decay=config.batch_norm_decay,
    )


def loss_of(config: Config) -> ContrastiveLoss:
    """The loss of a pretraining run."""
    return LOSSES[config.loss](**config.loss_settings())


def simclr_of(config: Config, channels: int, plan: Plan, probe_classes: int) -> SimCLR:
    """Builds and compiles the model; call it inside the strategy's scope."""
    model = SimCLR(
        encoder_of(config, channels),
        ProjectionHead(config.num_proj_layers, config.proj_out_dim),
        loss=loss_of(config),
        probe_classes=probe_classes,
        global_batch_norm=config.global_bn,
        micro_batch_size=config.micro_batch_size or None,
        rematerialize=config.rematerialize,
        skip_bad_steps=config.skip_bad_steps > 0,
    )
    optimizer = optimizer_of(config, plan, model.learned_variables)
    probe_optimizer = None
    if probe_classes:
        probe_optimizer = keras.optimizers.Adam(1e-3)
        probe_optimizer.build(model.probe.trainable_variables)
    model.compile(optimizer=optimizer, probe_optimizer=probe_optimizer)
    return model


def require_labels_to_train(config: Config, source) -> None:
    """Raises UserError if the loss or the online probe needs labels and there are none."""
    if config.lineareval_while_pretraining or loss_of(config).needs_labels:
        require_labels(source)


def probe_classes(config: Config, source) -> int:
    """Number of classes of the online probe; 0: no probe."""
    return len(source.class_names) if config.lineareval_while_pretraining else 0


def parts_of(model) -> dict:
    """The contents of a SimCLR checkpoint, the same with and without `skip_bad_steps`."""
    parts = {
        "encoder": model.encoder,
        "projection_head": model.projection_head,
        "optimizer": saved_form(model.optimizer),
    }
    if model.probe is not None:
        parts.update(probe=model.probe, probe_optimizer=model.probe_optimizer)
    return parts


def embedding_dim(config: Config, encoder: keras.Model) -> int:
    """D of the embeddings z or, without a projection head, of the representation h."""
    return config.proj_out_dim if config.num_proj_layers else int(encoder.output_shape[-1])


def optimizer_of(config: Config, plan: Plan, variables) -> keras.optimizers.Optimizer:
    """The optimiser of a training run, built for `variables`."""
    return build_optimizer(
        config.optimizer,
        plan.schedule(),
        variables=variables,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )


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
        labels=loss_of(config).needs_labels,
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
