"""From Config to the parts of a run: the source, the encoder, the model."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.config import Config
from tf_simclr.data.sources import in_memory, memory_limit, open_source
from tf_simclr.models.encoders import build_encoder
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.simclr import SimCLR
from tf_simclr.optim.factory import build_optimizer
from tf_simclr.tasks.plan import Plan
from tf_simclr.tasks.workdir import Workdir


def source_of(config: Config, split: str, keep_bad_images: bool = False):
    """Opens a split of the data set; `keep_bad_images` as `open_source` has it."""
    return open_source(
        config.dataset,
        config.data_dir or None,
        split,
        channels=config.channels or None,
        skip_bad_images=config.skip_bad_images,
        keep_bad_images=keep_bad_images,
        follow_links=config.follow_links,
        label=config.label,
        cache="off" if config.cache_side else config.cache,  # Not held whole first.
        listing=Workdir(config.workdir).listing() if config.dataset == "folder" else None,
    )


def for_training(config: Config, source):
    """The source with its images in memory, as far as --cache lets it."""
    if config.data_service:  # Others decode then.
        return source
    return in_memory(source, memory_limit(config.cache), config.cache_side)


def encoder_of(config: Config, channels: int) -> tf.keras.Model:
    """Builds the encoder with random weights, which depend on the seed."""
    tf.keras.utils.set_random_seed(config.seed)
    return build_encoder(
        config.encoder,
        image_size=config.image_size,
        channels=channels,
        width_multiplier=config.width_multiplier,
        sk_ratio=config.sk_ratio,
        se_ratio=config.se_ratio,
        batch_norm_decay=config.batch_norm_decay,
    )


def simclr_of(config: Config, channels: int, plan: Plan, probe_classes: int) -> SimCLR:
    """Builds and compiles the model; call it inside the strategy's scope."""
    model = SimCLR(
        encoder_of(config, channels),
        ProjectionHead(config.num_proj_layers, config.proj_out_dim),
        temperature=config.temperature,
        probe_classes=probe_classes,
        global_batch_norm=config.global_bn,
        micro_batch_size=config.micro_batch_size or None,
        rematerialize=config.rematerialize,
        skip_bad_steps=config.skip_bad_steps > 0,
    )
    optimizer = build_optimizer(
        config.optimizer,
        plan.schedule(),
        variables=model.learned_variables,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    probe_optimizer = None
    if probe_classes:
        probe_optimizer = tf.keras.optimizers.Adam(1e-3)
        probe_optimizer.build(model.probe.trainable_variables)
    model.compile(optimizer=optimizer, probe_optimizer=probe_optimizer)
    return model


def view_options(config: Config) -> dict:
    """What `two_view_dataset` is told of the views."""
    return {
        "color_jitter_strength": config.color_jitter_strength,
        "color_jitter_probability": config.color_jitter_probability,
        "grayscale_probability": config.grayscale_probability,
        "blur": config.use_blur,
        "blur_probability": config.blur_probability,
        "flip_probability": config.flip_probability,
        "crop_area": (config.crop_area_min, 1.0),
    }
