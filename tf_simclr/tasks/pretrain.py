"""--mode=pretrain: trains an encoder on images without labels, and exports it."""

from __future__ import annotations

import functools

import tensorflow as tf
from absl import logging

from tf_simclr.checkpoints import start_from
from tf_simclr.config import Config
from tf_simclr.data.copies import count_copies
from tf_simclr.export import check_exportable
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.stack import keras
from tf_simclr.tasks import build, calibration, exported, inputs
from tf_simclr.tasks.views import write_views
from tf_simclr.training import Plan, Session

_MANY_COPIES = 0.01  # Share of the files, from which pretraining warns.


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Pretrains, or resumes the run in --workdir; then exports the encoder.

    Raises:
      UserError: the settings or the data are invalid; earlier checkpoints are kept.
    """
    formats = exported.formats_of(config)
    source = inputs.training_source(config)
    inputs.require_labels_to_train(config, source)
    _warn_of_copies(source)
    splits = inputs.online_splits(config, source.channels)
    config, held = calibration.settled(config, strategy, source, splits)
    plan = build.plan_of(config, source.num_examples, strategy.num_replicas_in_sync)
    session = build.session_of(config, strategy, source)
    keras.mixed_precision.set_global_policy(config.precision)
    with strategy.scope():
        model = build.simclr_of(config, source.channels, plan, build.probe_classes(config, source))
    check_exportable(model.encoder, config.image_size, formats)
    session.start(
        build.parts_of(model),
        manifest=build.manifest_of(config, source, model.encoder),
        initialise=functools.partial(_initialise, config, model) if config.init_from else None,
    )
    build.announce(config, source, plan, strategy.num_replicas_in_sync, session.step)
    if session.step < plan.total_steps:
        held = held or inputs.for_training(config, source)
        _train(config, strategy, held, plan, model, session, splits)
    encoder = plain_copy(model.encoder)  # Every host: means over replicas are read collectively.
    session.hand_over(
        encoder,
        **exported.options_of(config, source),
        card=exported.card_of(
            config,
            f"{source.name} ({config.train_split}), {source.num_examples} images, "
            + ("with labels" if inputs.needs_labels(config) else "no labels"),
            f"SimCLR, {plan.total_steps} steps of {config.train_batch_size} images",
        ),
    )


def _warn_of_copies(source) -> None:
    copies = count_copies(source)
    if copies and copies.estimated >= max(2, _MANY_COPIES * copies.files):
        logging.warning("%s; --mode=duplicates lists them.", copies.in_words())


def _initialise(config: Config, model) -> None:
    """Gives the encoder the weights of --init_from."""
    start_from(build.given_encoder(config), model.encoder, config.init_from)


def _train(config: Config, strategy, source, plan: Plan, model, session: Session, splits) -> None:
    if source.channels != 3 and (config.color_jitter_strength or config.grayscale_probability):
        logging.info(
            "The images have %d channel(s): saturation, hue and grayscale exist for RGB only and "
            "are left out; brightness and contrast remain.",
            source.channels,
        )
    batch, width = config.train_batch_size, build.embedding_dim(config, model.encoder)
    levels = model.contrastive_loss.levels(batch, width)

    def show(metrics):
        top1 = metrics.get("contrastive_top1")
        return {
            "loss": f"{metrics['loss']:.3f}",
            **{name.removesuffix("_level"): f"{level:.3f}" for name, level in levels.items()},
            **({} if top1 is None else {"top1": f"{top1:.1%}"}),
        }

    dataset = functools.partial(inputs.two_view_batches, config, source, start_step=session.step)
    metrics = session.train(
        model,
        plan,
        source,
        dataset,
        levels=levels,
        show=show,
        largest_rank=min(batch // strategy.num_replicas_in_sync - 1, width),
        before=lambda writer: _show_views(dataset(None), session, writer, config),
        evaluate=build.online_evaluation(config, strategy, model.encoder, splits),
        **build.training_options(config),
    )
    session.workdir.keep_result("pretrain", metrics)


def _show_views(dataset, session: Session, writer, config: Config) -> None:
    """Writes some pairs of views to views.png and to TensorBoard."""
    views = write_views(session.workdir / "views.png", dataset, config)
    if views.shape[-1] in (1, 3):
        with writer.as_default(step=session.step):
            tf.summary.image("views", tf.concat(tf.unstack(views, axis=1), axis=2), len(views))
