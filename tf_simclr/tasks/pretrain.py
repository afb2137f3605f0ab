"""--mode=pretrain: learn an encoder from images without labels, and export it."""

from __future__ import annotations

import functools

import tensorflow as tf
from absl import logging

from tf_simclr import augment, losses
from tf_simclr.checkpoints import RunCheckpoints, load_encoder_from
from tf_simclr.config import Config
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.pipeline import labelled_dataset, require_labels, two_view_dataset
from tf_simclr.distribute import is_chief, several_hosts
from tf_simclr.errors import UserError
from tf_simclr.export import check_exportable, export_encoder
from tf_simclr.models.batch_norm import plain_copy
from tf_simclr.report import view_grid, write_report
from tf_simclr.tasks import build
from tf_simclr.tasks.guards import Guard
from tf_simclr.tasks.loop import train, wait_shown
from tf_simclr.tasks.plan import Plan, make_plan
from tf_simclr.tasks.records import card, check_same_run, manifest
from tf_simclr.tasks.workdir import Workdir

_VIEWS_SHOWN = 8


def run(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Pretrains, or resumes the run in --workdir; then exports the encoder.

    Raises:
      UserError: a mistake in the settings or the data; what was saved before stays.
    """
    source = build.source_of(config, config.train_split)
    plan = make_plan(config, source.num_examples)
    check_batch(config, strategy)
    workdir = Workdir(config.workdir, writes=is_chief(strategy))
    workdir.check_is_of(config)
    tf.keras.mixed_precision.set_global_policy(config.precision)
    if config.lineareval_while_pretraining:
        require_labels(source)
    classes = len(source.class_names) if config.lineareval_while_pretraining else 0
    with strategy.scope():
        model = build.simclr_of(config, source.channels, plan, classes)
    check_exportable(model.encoder, config.image_size)
    checkpoints = RunCheckpoints(
        workdir / "checkpoints",
        keep=config.keep_checkpoint_max,
        manifest=manifest(config, source, model.encoder),
        **parts_of(model),
    )
    check_same_run(workdir / "checkpoints", source, config.allow_changes)
    step = checkpoints.restore_latest(config.allow_changes)
    if step is None and config.init_from:  # A resumed run no longer needs it.
        with strategy.scope():
            start_from(config.init_from, model.encoder)
    step = step or 0
    check_same_step(strategy, step)
    workdir.claim(config)
    workdir.keep_listing(source.listing)
    lines = workdir.metrics_until(step)
    _announce(config, source, plan, strategy, step)
    if step < plan.total_steps:
        _train(config, strategy, source, plan, model, checkpoints, workdir, step, lines)
    encoder = plain_copy(model.encoder)  # On every host: reading a mean over replicas needs all.
    if workdir.writes:
        _hand_over(config, source, plan, encoder, workdir)


def _train(config, strategy, source, plan, model, checkpoints, workdir, step, lines):
    source = build.for_training(config, source)
    dataset = functools.partial(_dataset, config, source, start_step=step)
    writer = workdir.summary_writer()
    chance = losses.chance_level(config.train_batch_size)
    untrained = losses.untrained_level(
        config.train_batch_size, config.proj_out_dim, config.temperature
    )
    share = config.train_batch_size // strategy.num_replicas_in_sync
    largest_rank = min(share - 1, config.proj_out_dim)
    guard = Guard(lines, checkpoints, untrained, config.on_trouble, largest_rank)

    def log(metrics):
        metrics.update(chance_level=chance, untrained_level=untrained)
        workdir.log_metrics(metrics)
        with writer.as_default(step=metrics["step"]):
            for name, value in metrics.items():
                tf.summary.scalar(name, value)
        guard.look(metrics)

    def describe(metrics):
        return {
            "loss": f"{metrics['loss']:.3f} (untrained {untrained:.3f}, chance {chance:.3f})",
            "top1": f"{metrics['contrastive_top1']:.1%}",
            "img/s": f"{metrics['images_per_second']:.0f}",
            **wait_shown(metrics),
        }

    with naming_bad_images(source):
        if workdir.writes:
            _show_views(dataset(None), workdir, writer, step, model.probe is not None)
        with strategy.scope():
            metrics = train(
                model,
                strategy.distribute_datasets_from_function(dataset),
                plan,
                start_step=step,
                batch_size=config.train_batch_size,
                steps_per_call=config.steps_per_execution,
                jit_compile=config.jit_compile,
                skip_bad_steps=config.skip_bad_steps,
                max_minutes=config.max_run_time,
                checkpoints=checkpoints,
                log=log,
                describe=describe,
            )
    workdir.update_result("pretrain", metrics)


def _dataset(config, source, context, *, start_step):
    views = two_view_dataset(
        source,
        batch_size=config.train_batch_size,
        image_size=config.image_size,
        seed=config.seed,
        start_step=start_step,
        input_context=context,
        data_service=context and config.data_service,  # Not for the one batch that is shown.
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


def parts_of(model) -> dict:
    """What a checkpoint of a SimCLR model holds; the same with and without `skip_bad_steps`."""
    optimizer = model.optimizer
    if model.skip_bad_steps and model.dtype_policy.name != "mixed_float16":
        optimizer = optimizer.inner_optimizer
    parts = {
        "encoder": model.encoder,
        "projection_head": model.projection_head,
        "optimizer": optimizer,
    }
    if model.probe is not None:
        parts.update(probe=model.probe, probe_optimizer=model.probe_optimizer)
    return parts


def start_from(path: str, encoder: tf.keras.Model) -> None:
    """Gives the encoder the weights of another, of the same architecture.

    Raises:
      UserError: none is at `path`, or a weight has another shape.
    """
    given = load_encoder_from(path)
    shapes, own = ([w.shape.as_list() for w in e.weights] for e in (given, encoder))
    if shapes != own:
        differing = next((i for i, (a, b) in enumerate(zip(shapes, own)) if a != b), None)
        at = (
            ""
            if differing is None
            else (
                f"; the first that differs, {encoder.weights[differing].name}, has shape "
                f"{shapes[differing]} there and {own[differing]} here"
            )
        )
        raise UserError(
            f"the encoder of --init_from={path} does not fit: it has {len(shapes)} weights, this "
            f"one {len(own)}{at}. Use its --encoder, --width_multiplier and --channels."
        )
    encoder.set_weights(given.get_weights())


def check_same_step(strategy, step: int) -> None:
    """Raises UserError where several hosts have not restored the same checkpoint."""
    if not several_hosts(strategy):
        return
    mean = strategy.reduce(tf.distribute.ReduceOp.MEAN, tf.constant(float(step)), axis=None)
    if float(mean) != step:
        raise UserError(
            f"this host resumes at step {step}, others at another step: --workdir must be storage "
            "that all hosts see."
        )


def check_batch(config: Config, strategy) -> None:
    """Raises UserError where the replicas cannot share the batch evenly."""
    batch, replicas = config.train_batch_size, strategy.num_replicas_in_sync
    if batch % replicas:
        raise UserError(
            f"--train_batch_size={batch} is not divisible by the {replicas} replicas; "
            f"the nearest that is: {max(round(batch / replicas), 1) * replicas}."
        )
    share, micro = batch // replicas, config.micro_batch_size
    if micro and share % micro:
        largest = max(size for size in range(1, min(micro, share) + 1) if share % size == 0)
        raise UserError(
            f"--micro_batch_size={micro} must divide the {share} images that each of the "
            f"{replicas} replica(s) has of the batch; the nearest below that does: {largest}."
        )


def _announce(config, source, plan: Plan, strategy, step):
    logging.info(
        "%s: %d images, %s, %d px; batch %d on %d replica(s); %d steps of %d per epoch; peak "
        "learning rate %.4g after %d steps.%s",
        source.name,
        source.num_examples,
        config.encoder,
        config.image_size,
        config.train_batch_size,
        strategy.num_replicas_in_sync,
        plan.total_steps,
        plan.steps_per_epoch,
        plan.peak_learning_rate,
        plan.warmup_steps,
        f" Resuming from step {step}." if step else "",
    )
    if source.channels != 3 and (config.color_jitter_strength or config.grayscale_probability):
        logging.info(
            "The images have %d channel(s): saturation, hue and grayscale exist for RGB only and "
            "are left out; brightness and contrast remain.",
            source.channels,
        )


def _show_views(dataset, workdir, writer, step, with_probe):
    element = next(iter(dataset))
    batch = element[0] if with_probe else element
    batch = {name: value[:_VIEWS_SHOWN] for name, value in batch.items()}
    views = tf.stack(tf.split(augment.finish_views(batch), 2), axis=1)
    view_grid(workdir / "views.png", views.numpy())
    if views.shape[-1] in (1, 3):
        with writer.as_default(step=step):
            tf.summary.image("views", tf.concat(tf.unstack(views, axis=1), axis=2), _VIEWS_SHOWN)


def _hand_over(config, source, plan, encoder, workdir):
    directory = export_encoder(
        encoder,
        workdir / "encoder",
        image_size=config.image_size,
        card=card(
            config,
            f"{source.name} ({config.train_split}), {source.num_examples} images, no labels",
            f"SimCLR, {plan.total_steps} steps of {config.train_batch_size} images",
            workdir.result(),
        ),
    )
    report = write_report(workdir.path)
    logging.info("The encoder is in %s, the report in %s.", directory, report)
