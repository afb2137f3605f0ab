"""--mode=pretrain: trains an encoder on images without labels, and exports it."""

from __future__ import annotations

import functools

import tensorflow as tf
from absl import logging

from tf_simclr import augment
from tf_simclr.checkpoints import start_from
from tf_simclr.config import Config
from tf_simclr.data.pipeline import labelled_dataset, require_labels, two_view_dataset
from tf_simclr.export import check_exportable
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.models.skipping import saved_form
from tf_simclr.report import view_grid
from tf_simclr.stack import keras
from tf_simclr.tasks import build, exported
from tf_simclr.training import Plan, Session

_VIEWS_SHOWN = 8


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Pretrains, or resumes the run in --workdir; then exports the encoder.

    Raises:
      UserError: the settings or the data are invalid; earlier checkpoints are kept.
    """
    formats = exported.formats_of(config)
    source = build.source_of(config, config.train_split)
    needs_labels = build.loss_of(config).needs_labels
    if needs_labels:
        require_labels(source)
    splits = build.online_splits(config, source.channels)
    plan = build.plan_of(config, source.num_examples, strategy.num_replicas_in_sync)
    session = build.session_of(config, strategy, source)
    keras.mixed_precision.set_global_policy(config.precision)
    with strategy.scope():
        model = build.simclr_of(config, source.channels, plan, _probe_classes(config, source))
    check_exportable(model.encoder, config.image_size, formats)
    session.start(
        parts_of(model),
        manifest=build.manifest_of(config, source, model.encoder),
        initialise=functools.partial(_initialise, config, model) if config.init_from else None,
    )
    build.announce(config, source, plan, strategy.num_replicas_in_sync, session.step)
    if session.step < plan.total_steps:
        _train(config, strategy, source, plan, model, session, splits)
    encoder = plain_copy(model.encoder)  # Every host: means over replicas are read collectively.
    session.hand_over(
        encoder,
        **exported.options_of(config, source),
        card=exported.card_of(
            config,
            f"{source.name} ({config.train_split}), {source.num_examples} images, "
            + ("with labels" if needs_labels else "no labels"),
            f"SimCLR, {plan.total_steps} steps of {config.train_batch_size} images",
        ),
    )


def _initialise(config: Config, model) -> None:
    """Gives the encoder the weights of --init_from."""
    start_from(build.given_encoder(config), model.encoder, config.init_from)


def _probe_classes(config: Config, source) -> int:
    """Number of classes of the online probe; 0: no probe."""
    if not config.lineareval_while_pretraining:
        return 0
    require_labels(source)
    return len(source.class_names)


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


def _train(config: Config, strategy, source, plan: Plan, model, session: Session, splits) -> None:
    if source.channels != 3 and (config.color_jitter_strength or config.grayscale_probability):
        logging.info(
            "The images have %d channel(s): saturation, hue and grayscale exist for RGB only and "
            "are left out; brightness and contrast remain.",
            source.channels,
        )
    source = build.for_training(config, source)
    batch, width = config.train_batch_size, build.embedding_dim(config, model.encoder)
    levels = model.contrastive_loss.levels(batch, width)

    def show(metrics):
        top1 = metrics.get("contrastive_top1")
        return {
            "loss": f"{metrics['loss']:.3f}",
            **{name.removesuffix("_level"): f"{level:.3f}" for name, level in levels.items()},
            **({} if top1 is None else {"top1": f"{top1:.1%}"}),
        }

    dataset = functools.partial(_dataset, config, source, start_step=session.step)
    metrics = session.train(
        model,
        plan,
        source,
        dataset,
        levels=levels,
        show=show,
        largest_rank=min(batch // strategy.num_replicas_in_sync - 1, width),
        before=lambda writer: _show_views(dataset(None), session, writer, model.probe is not None),
        evaluate=build.online_evaluation(config, strategy, model.encoder, splits),
        **build.training_options(config),
    )
    session.workdir.keep_result("pretrain", metrics)


def _dataset(config: Config, source, context, *, start_step: int) -> tf.data.Dataset:
    """Batches of two views from `start_step` on, each with a labelled batch if there is a probe."""
    views = two_view_dataset(
        source,
        batch_size=config.train_batch_size,
        image_size=config.image_size,
        seed=config.seed,
        start_step=start_step,
        input_context=context,
        data_service=context and config.data_service,  # Not needed for the batch to show.
        labels=build.loss_of(config).needs_labels,
        **build.view_options(config),
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


def _show_views(dataset, session: Session, writer, with_probe: bool) -> None:
    """Writes some pairs of views to views.png and to TensorBoard."""
    element = next(iter(dataset))
    batch = element[0] if with_probe else element
    batch = {name: value[:_VIEWS_SHOWN] for name, value in batch.items()}
    views = tf.stack(tf.split(augment.finish_views(batch), 2), axis=1)
    view_grid(session.workdir / "views.png", views.numpy())
    if views.shape[-1] in (1, 3):
        with writer.as_default(step=session.step):
            tf.summary.image("views", tf.concat(tf.unstack(views, axis=1), axis=2), _VIEWS_SHOWN)
