"""--mode=finetune: train encoder and classifier, or only its upper part, on labelled images."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.checkpoints import RunCheckpoints, load_encoder_from
from tf_simclr.config import Config
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.pipeline import labelled_dataset
from tf_simclr.distribute import is_chief
from tf_simclr.errors import printable
from tf_simclr.export import check_exportable, export_encoder, write_keras
from tf_simclr.models.batch_norm import plain_copy, synchronize_batch_norm
from tf_simclr.models.classifier import classifier
from tf_simclr.optim.factory import build_optimizer
from tf_simclr.tasks import build, judging
from tf_simclr.tasks.features import represent
from tf_simclr.tasks.guards import Guard
from tf_simclr.tasks.loop import train, wait_shown
from tf_simclr.tasks.plan import make_plan
from tf_simclr.tasks.pretrain import check_batch, check_same_step
from tf_simclr.tasks.records import card, check_same_run, manifest
from tf_simclr.tasks.workdir import Workdir


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Fine-tunes the encoder of --init_from, reports its accuracy and exports it.

    Raises:
      UserError: a mistake in the settings or the data; what was saved before stays.
    """
    source, eval_source = judging.labelled_splits(config)
    plan = make_plan(config, source.num_examples)
    check_batch(config, strategy)
    workdir = Workdir(config.workdir, writes=is_chief(strategy))
    tf.keras.utils.set_random_seed(config.seed)
    tf.keras.mixed_precision.set_global_policy(config.precision)
    with strategy.scope():
        encoder = load_encoder_from(config.init_from)
        judging.check_channels(encoder, source)
        model = _classifier(config, encoder, len(source.class_names), plan, strategy)
    check_exportable(encoder, config.image_size)
    workdir.check_is_of(config)
    checkpoints = RunCheckpoints(
        workdir / "checkpoints",
        keep=config.keep_checkpoint_max,
        manifest=manifest(config, source, encoder),
        encoder=encoder,
        classifier=model.get_layer("classifier"),
        optimizer=model.optimizer,
    )
    check_same_run(workdir / "checkpoints", source, config.allow_changes)
    step = checkpoints.restore_latest(config.allow_changes) or 0
    check_same_step(strategy, step)
    workdir.claim(config)
    workdir.keep_listing(source.listing)
    lines = workdir.metrics_until(step)
    frozen = [v.numpy() for v in model.non_trainable_variables] if _is_frozen(config) else []
    if step < plan.total_steps:
        _train(config, strategy, source, plan, model, checkpoints, workdir, step, lines)
    for before, variable in zip(frozen, model.non_trainable_variables):
        if not np.array_equal(before, variable.numpy()):
            raise AssertionError(f"frozen variable {variable.name} changed")
    plain = plain_copy(model)  # On every host: reading a mean over replicas needs all.
    if workdir.writes:
        _hand_over(config, source, eval_source, plain, plain_copy(encoder), workdir, plan)


def _classifier(config, encoder, num_classes, plan, strategy):
    """Builds and compiles the model; call it inside the strategy's scope."""
    synchronize_batch_norm(encoder, config.global_bn and strategy.num_replicas_in_sync > 1)
    model = classifier(encoder, num_classes, config.fine_tune_after_block)
    optimizer = build_optimizer(
        config.optimizer,
        plan.schedule(),
        variables=model.trainable_variables,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    model.compile(
        optimizer,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy(name="top1")],
    )
    return model


def _train(config, strategy, source, plan, model, checkpoints, workdir, step, lines):
    source = build.for_training(config, source)
    chance = math.log(len(source.class_names))
    guard = Guard(lines, checkpoints, chance, config.on_trouble)

    def dataset(context):
        return labelled_dataset(
            source,
            batch_size=config.train_batch_size,
            image_size=config.image_size,
            seed=config.seed,
            start_step=step,
            input_context=context,
            flip_probability=config.flip_probability,
            crop_area=(config.crop_area_min, 1.0),
        )

    def log(metrics):
        workdir.log_metrics(metrics)
        guard.look(metrics)

    def describe(metrics):
        return {
            "loss": f"{metrics['loss']:.3f}",
            "top1": f"{metrics['top1']:.1%}",
            "img/s": f"{metrics['images_per_second']:.0f}",
            **wait_shown(metrics),
        }

    with naming_bad_images(source), strategy.scope():
        metrics = train(
            model,
            strategy.distribute_datasets_from_function(dataset),
            plan,
            start_step=step,
            batch_size=config.train_batch_size,
            steps_per_call=config.steps_per_execution,
            jit_compile=config.jit_compile,
            max_minutes=config.max_run_time,
            checkpoints=checkpoints,
            log=log,
            describe=describe,
        )
    workdir.update_result("training", metrics)


def _hand_over(config, source, eval_source, model, encoder, workdir, plan):
    logits = represent(
        model,
        eval_source,
        image_size=config.image_size,
        batch_size=config.eval_batch_size,
        name="evaluating",
    )
    top1 = float(np.mean(logits.argmax(axis=1) == eval_source.labels))
    numbers = {"top1": top1, "images": eval_source.num_examples, "steps": plan.total_steps}
    workdir.update_result("finetune", numbers)
    export_encoder(
        encoder,
        workdir / "encoder",
        image_size=config.image_size,
        card=card(
            config,
            f"{source.name} ({config.train_split}), {source.num_examples} labelled images",
            f"fine-tuned for {plan.total_steps} steps from {config.init_from}",
            workdir.result(),
        ),
    )
    write_keras(model, workdir / "classifier.keras")
    name = printable(eval_source.name)
    print(f"Fine-tuned on {source.num_examples} images: top-1 {top1:.2%} of {name}.")
    logging.info("The classifier is in %s.", workdir / "classifier.keras")


def _is_frozen(config):
    return config.fine_tune_after_block >= 0
