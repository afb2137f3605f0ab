"""Builds the parts of a run from Config, in the same way for all modes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr import features
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import IMAGENET, Config
from tf_simclr.data.sources import memory_limit
from tf_simclr.evaluation.evaluators import KNN
from tf_simclr.flagfile import from_flagfile, recorded, to_flagfile
from tf_simclr.losses import LOSSES, ContrastiveLoss
from tf_simclr.models.encoder_interface import trace_on_images
from tf_simclr.models.encoders import build_encoder, imagenet_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR
from tf_simclr.models.skipping import saved_form
from tf_simclr.optim.factory import build_optimizer
from tf_simclr.stack import keras
from tf_simclr.tasks import inputs
from tf_simclr.training import Plan, Session, make_plan
from tf_simclr.training.online import OnlineEvaluation
from tf_simclr.training.plan import check_shares
from tf_simclr.workdir import Identity, manifest


def given_encoder(config: Config) -> keras.Model:
    """Loads the encoder of --init_from, or else of the run in --workdir.

    Raises:
      UserError: there is none, or it cannot be read or downloaded.
    """
    if config.init_from == IMAGENET:
        return imagenet_encoder(config.encoder)
    return load_encoder_from(config.init_from or config.workdir)


def encoder_for(config: Config, strategy, source) -> keras.Model:
    """`given_encoder` on the strategy's replicas, once it is known to take the source's images.

    Raises:
      UserError: as `given_encoder`; or it does not take images of these channels or this size.
    """
    with strategy.scope():
        encoder = given_encoder(config)
    features.check_channels(encoder, source)
    trace_on_images(encoder, [1, config.image_size, config.image_size, source.channels])
    return encoder


def table_of(config: Config) -> str:
    """The folder of the table of embeddings."""
    return (config.table or os.path.join(config.workdir, "embeddings")).rstrip("/")


def online_evaluation(config: Config, strategy, encoder: keras.Model, sources):
    """The function that the training loop calls to evaluate; None without `sources`."""
    if sources is None:
        return None
    train, test = map(inputs.labelled, sources)
    return OnlineEvaluation(
        encoder,
        strategy,
        KNN(config.knn_k, config.knn_temperature).prepare(train, test),
        tuple(zip(sources, (train, test))),
        image_size=config.image_size,
        batch_size=config.eval_batch_size,
        most_bytes=memory_limit(config.cache),
    )


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


@contextlib.contextmanager
def precision(config: Config) -> Iterator[None]:
    """Keras' policy is --precision in this block, and float32 after it."""
    keras.mixed_precision.set_global_policy(config.precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy("float32")


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
