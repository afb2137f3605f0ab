"""--mode=finetune: trains a classifier and all or part of the encoder on labelled images."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from absl import logging

from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import Config
from tf_simclr.data.pipeline import labelled_dataset
from tf_simclr.errors import printable
from tf_simclr.export import check_exportable, write_keras
from tf_simclr.features import check_channels, represent
from tf_simclr.models.batch_norm import plain_copy, synchronize_batch_norm
from tf_simclr.models.classifier import ClassifierTraining, classifier
from tf_simclr.models.skipping import saved_form
from tf_simclr.stack import keras
from tf_simclr.tasks import build, exported, inputs
from tf_simclr.training import Plan, Session


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Fine-tunes the encoder of --init_from, reports its accuracy and exports it.

    Raises:
      UserError: the settings or the data are invalid; earlier checkpoints are kept.
    """
    formats = exported.formats_of(config)
    replicas = strategy.num_replicas_in_sync
    source, eval_source = inputs.labelled_splits(config)
    config = build.fit_batch(config, source.num_examples, replicas)
    plan = build.plan_of(config, source.num_examples, replicas)
    session = build.session_of(config, strategy, source)
    keras.utils.set_random_seed(config.seed)
    keras.mixed_precision.set_global_policy(config.precision)
    with strategy.scope():
        # A resumed run loads the encoder from its own checkpoints: --init_from may no longer exist.
        encoder = (
            load_encoder_from(config.workdir) if session.resumes else build.given_encoder(config)
        )
        check_channels(encoder, source)
        synchronize_batch_norm(encoder, config.global_bn and replicas > 1)
        model = classifier(encoder, len(source.class_names), config.fine_tune_after_block)
        training = ClassifierTraining(model, skip_bad_steps=config.skip_bad_steps > 0)
        training.compile(build.optimizer_of(config, plan, model.trainable_variables))
    check_exportable(encoder, config.image_size, formats)
    session.start(
        {
            "encoder": encoder,
            "classifier": model.get_layer("classifier"),
            "optimizer": saved_form(training.optimizer),
        },
        manifest=build.manifest_of(config, source, encoder),
    )
    build.announce(config, source, plan, replicas, session.step)
    if session.step < plan.total_steps:
        _train(config, source, plan, training, session)
    model, encoder = map(plain_copy, (model, encoder))  # Reading weights involves every host.
    if session.workdir.writes:
        _evaluate(config, source, eval_source, model, session)
        write_keras(model, session.workdir / "classifier.keras")
        logging.info("The classifier is in %s.", session.workdir / "classifier.keras")
    session.hand_over(
        encoder,
        **exported.options_of(config, source),
        card=exported.card_of(
            config,
            f"{source.name} ({config.train_split}), {source.num_examples} labelled images",
            f"fine-tuned for {plan.total_steps} steps from {config.init_from}",
            classes=list(source.class_names),
        ),
    )


def _train(config: Config, source, plan: Plan, training, session: Session) -> None:
    source = inputs.for_training(config, source)

    def dataset(context):
        return labelled_dataset(
            source,
            batch_size=config.train_batch_size,
            image_size=config.image_size,
            seed=config.seed,
            start_step=session.step,
            input_context=context,
            flip_probability=config.flip_probability,
            crop_area=(config.crop_area_min, 1.0),
        )

    metrics = session.train(
        training,
        plan,
        source,
        dataset,
        levels={"chance_level": math.log(len(source.class_names))},
        show=lambda metrics: {"loss": f"{metrics['loss']:.3f}", "top1": f"{metrics['top1']:.1%}"},
        **build.training_options(config),
    )
    session.workdir.keep_result("training", metrics)


def _evaluate(config: Config, source, eval_source, model, session: Session) -> None:
    """Prints and saves the accuracy on the evaluation split."""
    logits = represent(
        model,
        eval_source,
        image_size=config.image_size,
        batch_size=config.eval_batch_size,
        name="evaluating",
    )
    top1 = float(np.mean(logits.argmax(axis=1) == eval_source.labels))
    numbers = {"top1": top1, "images": eval_source.num_examples, "steps": session.step}
    numbers["classes"] = list(source.class_names)
    session.workdir.keep_result("finetune", numbers)
    name = printable(eval_source.name)
    print(f"Fine-tuned on {source.num_examples} images: top-1 {top1:.2%} of {name}.")
