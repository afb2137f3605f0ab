"""SimCLR: the model whose training step is the figure in the paper."""

from __future__ import annotations

import inspect

import tensorflow as tf

from tf_simclr import augment, losses
from tf_simclr.distribute import num_replicas
from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import synchronize_batch_norm
from tf_simclr.models.encoder_interface import build_head, interface_of
from tf_simclr.models.first_batches import checked
from tf_simclr.models.heads import ProjectionHead
from tf_simclr.models.inputs import Images, Pairs, to_float
from tf_simclr.models.micro_batches import MicroBatches
from tf_simclr.models.recompute import Network, forward, penalties
from tf_simclr.models.segments import segments_of
from tf_simclr.models.skipping import counting_skips, skipping
from tf_simclr.models.step_metrics import StepMetrics
from tf_simclr.stack import keras

_FIT, _EVALUATE = (inspect.signature(f) for f in (keras.Model.fit, keras.Model.evaluate))


@keras.utils.register_keras_serializable(package="tf_simclr")
class SimCLR(keras.Model):
    """A Simple framework for Contrastive Learning of visual Representations (arXiv:2002.05709).

    `fit` takes `two_view_dataset`, or any dataset of (view_a, view_b), each [N, H, W, C] of floats
    in [0, 1] or of uint8, which is divided by 255. Labels after them, ((view_a, view_b), labels),
    reach a loss that needs labels, which needs `two_view_dataset(labels=True)`; other losses ignore
    them. With a probe it takes pairs (one of these as above, (images, labels)): the probe is a
    linear classifier on stop_gradient(h), with its own labelled images and its own optimiser. It
    shows how good the representation is during training and has no effect on the encoder. Batches
    of another form, and float images far outside [0, 1], raise a UserError before the first step
    (`models/inputs.py`).

    Under a strategy with several replicas the batch normalisation of encoder and head is
    synchronised, and the negatives are those of the global batch.

    With `micro_batch_size=M` a step holds the activations of M images only, however large the
    batch: it goes through the batch twice, M consecutive images at a time (gradient caching, Gao et
    al. 2021, arXiv:2101.06983). Without batch normalisation the gradient is that of the whole
    batch. With it, statistics are those of M images of one replica, even with `global_batch_norm`
    ("ghost" batch normalisation); moving averages are updated once for every M images, and averaged
    over the replicas. `rematerialize` instead recomputes the inside of every residual block in the
    backward pass, with the statistics of the whole batch. The two can be combined.

    Attributes:
      encoder: f, a Keras model or layer from images [N, H, W, C] float32 to h [N, D]. Unless it is
        functional, it must have been called once, on images of any size that it takes.
      projection_head: g, a layer from h to z; default `ProjectionHead()`.
      contrastive_loss: a `losses.ContrastiveLoss`, the constructor's argument `loss`
        (`temperature=T` is short for `loss=NTXent(T)`). Keras models already have another `loss`.
      probe_classes: number of classes of the online probe; 0: no probe.
      global_batch_norm: whether to synchronise batch normalisation across replicas.
      micro_batch_size: M, images that a replica processes at a time; None: all. It must divide the
        replica's batch, whose size must be static.
      rematerialize: whether to recompute the activations inside residual blocks in the backward
        pass; for encoders that are functional models.
      skip_bad_steps: whether a step whose gradient is NaN or infinite leaves weights, optimiser and
        moving statistics as they were; the metric `skipped_steps` counts such steps.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projection_head: keras.layers.Layer | None = None,
        temperature: float | None = None,
        probe_classes: int = 0,
        global_batch_norm: bool = True,
        micro_batch_size: int | None = None,
        rematerialize: bool = False,
        skip_bad_steps: bool = False,
        loss: losses.ContrastiveLoss | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(f"micro_batch_size must be positive; received {micro_batch_size!r}.")
        images, h = interface_of(encoder)
        self.encoder = encoder
        self.projection_head = ProjectionHead() if projection_head is None else projection_head
        self.contrastive_loss = losses.chosen_loss(loss, temperature)
        self.probe_classes = probe_classes
        self.global_batch_norm = global_batch_norm
        self.micro_batch_size = micro_batch_size
        self.rematerialize = rematerialize
        self.skip_bad_steps = skip_bad_steps
        build_head(self.projection_head, h)
        self.probe = None
        if probe_classes:
            self.probe = keras.layers.Dense(probe_classes, dtype="float32", name="probe")
            with tf.name_scope(self.probe.name):
                self.probe.build(h)
        synchronized = global_batch_norm and num_replicas() > 1 and micro_batch_size is None
        for part in (self.encoder, self.projection_head):
            synchronize_batch_norm(part, synchronized)
        if rematerialize:
            *blocks, last = segments_of(encoder)
            self._network = Network([*([block] for block in blocks), [last, self.projection_head]])
        elif micro_batch_size is not None:
            self._network = Network([[encoder, self.projection_head]])
        else:
            self._network = None
        ranks = self.contrastive_loss.ranks_positives
        self._observed = StepMetrics(ranks, bool(probe_classes), finite_only=skip_bad_steps)
        needs_labels = self.contrastive_loss.needs_labels
        self._pairs = Pairs(images, bool(probe_classes), num_replicas(), needs_labels)
        self._images = Images(images)
        # Saving as a SavedModel needs these. Keras sets them in a model's first `__call__`, but
        # training never calls the model.
        self._set_save_spec(images)
        self.built = True

    def compile(self, optimizer="rmsprop", probe_optimizer=None, **kwargs):
        """As `keras.Model.compile`, but without a loss, which the constructor takes.

        Args:
          optimizer: for encoder and projection head.
          probe_optimizer: for the online probe; default Adam.
          **kwargs: jit_compile, steps_per_execution, run_eagerly.
        """
        if kwargs.get("loss") is not None:
            raise UserError(
                "compile takes no loss: give one to the constructor, as in SimCLR(encoder, head, "
                f"loss=NTXent(0.1)); received loss={kwargs['loss']!r}."
            )
        optimizer = keras.optimizers.get(optimizer)
        if self.skip_bad_steps and self.dtype_policy.name != "mixed_float16":
            optimizer = skipping(optimizer)  # For mixed_float16 Keras wraps the optimiser itself.
        super().compile(optimizer=optimizer, **kwargs)
        self.probe_optimizer = keras.optimizers.get(probe_optimizer or "adam")

    @property
    def metrics(self):
        return self._observed.all(skipping=self._can_skip)

    @property
    def learned_variables(self) -> list[tf.Variable]:
        """The variables that `optimizer` trains: those of f and g, not of the probe."""
        return self.encoder.trainable_variables + self.projection_head.trainable_variables

    def call(self, inputs, training=False):
        """The representation h [N, D] of images [N, H, W, C], floats in [0, 1] or uint8; not z."""
        return self.encoder(to_float(inputs), training=training)

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """As `keras.Model.fit`; UserError unless the batches are as the class describes."""
        for name in ("sample_weight", "class_weight"):
            if kwargs.get(name) is not None:
                raise UserError(f"SimCLR does not weigh images; received {name}.")
        given = _FIT.bind(self, x, y, batch_size, *args, **kwargs)
        given.apply_defaults()
        given = given.arguments
        split = 0.0 if given["validation_data"] is not None else given["validation_split"]
        options = {
            "steps": given["steps_per_epoch"],
            "epochs": given["epochs"] - given["initial_epoch"],
            "validation_split": split,
            "validation_batch_size": given["validation_batch_size"],
            "validation_steps": given["validation_steps"],
        }
        with checked(self._pairs, x, y, batch_size, **options) as x:
            return super().fit(x, y, batch_size, *args, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """As `keras.Model.evaluate`, on batches as `fit` takes them."""
        given = _EVALUATE.bind(self, x, y, batch_size, *args, **kwargs).arguments
        with checked(self._pairs, x, y, batch_size, steps=given.get("steps")) as x:
            return super().evaluate(x, y, batch_size, *args, **kwargs)

    def predict(self, x, batch_size=None, *args, **kwargs):
        """Computes h [N, D] of images [N, H, W, C], as `keras.Model.predict`."""
        with checked(self._images, x, None, batch_size) as x:
            return super().predict(x, batch_size, *args, **kwargs)

    def train_step(self, data):
        batch, labelled, labels = self._pairs.take(data)
        recompute = self.rematerialize or MicroBatches(batch, self.micro_batch_size).count > 1
        step = self._minimize_recomputing if recompute else self._minimize
        if self._can_skip:
            moving = self.encoder.non_trainable_variables
            moving = moving + self.projection_head.non_trainable_variables
            step = counting_skips(step, self.optimizer, moving, self._observed.skipped)
        self._observed.update(*step(batch, labels))
        if labelled is not None:
            self._train_probe(*labelled)
        return {mean.name: mean.result() for mean in self.metrics}

    def _minimize(self, batch, labels):
        """The figure in the paper: two views of each image through f and g, then the loss."""
        with tf.GradientTape() as tape:
            h = self.encoder(_views(batch), training=True)
            z_a, z_b = tf.split(self.projection_head(h, training=True), 2)
            contrast = losses.contrast_of(self.contrastive_loss, z_a, z_b, labels)
            penalty = penalties([self.encoder, self.projection_head])
            loss = losses.replica_share(contrast.loss + penalty)
        self.optimizer.minimize(loss, self.learned_variables, tape=tape)
        return contrast, z_a, z_b

    def _minimize_recomputing(self, batch, labels):
        """The same step, keeping few activations: backpropagates to z, then through g and f."""
        z_a, z_b, backward = forward(self._network, batch, _views, self.micro_batch_size)
        with tf.GradientTape() as tape:
            tape.watch([z_a, z_b])
            contrast = losses.contrast_of(self.contrastive_loss, z_a, z_b, labels)
            loss = losses.replica_share(contrast.loss)
        upstream = [*tape.gradient(loss, [z_a, z_b]), losses.replica_share(tf.ones([]))]
        if self._can_skip:
            upstream = [self.optimizer.get_scaled_loss(x) for x in upstream]
        gradients = backward(*upstream)
        if self._can_skip:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        of = {v.ref(): gradient for v, gradient in zip(self._network.variables, gradients)}
        self.optimizer.apply_gradients([(of[v.ref()], v) for v in self.learned_variables])
        return contrast, z_a, z_b

    @property
    def _can_skip(self) -> bool:
        return isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)

    def test_step(self, data):
        batch, labelled, labels = self._pairs.take(data)

        def embed(part):
            h = self.encoder(_views(part), training=False)
            z = self.projection_head(h, training=False)
            return tuple(tf.split(tf.cast(z, tf.float32), 2))

        parts = MicroBatches(batch, self.micro_batch_size)
        z_a, z_b = parts.map(embed, (tf.float32, tf.float32))
        contrast = losses.contrast_of(self.contrastive_loss, z_a, z_b, labels)
        self._observed.update(contrast, z_a, z_b)
        if labelled is not None:
            self._probe_loss(*labelled)
        return {mean.name: mean.result() for mean in self.metrics}

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "encoder": serialize(self.encoder),
            "projection_head": serialize(self.projection_head),
            "loss": serialize(self.contrastive_loss),
            "probe_classes": self.probe_classes,
            "global_batch_norm": self.global_batch_norm,
            "micro_batch_size": self.micro_batch_size,
            "rematerialize": self.rematerialize,
            "skip_bad_steps": self.skip_bad_steps,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("encoder", "projection_head", "loss")
            if name in config  # Models saved before losses were values have only a temperature.
        }
        return cls(**{**config, **parts})

    def get_compile_config(self):
        if self.optimizer is None:
            return None
        serialize = keras.saving.serialize_keras_object
        return {
            "optimizer": serialize(self.optimizer),
            "probe_optimizer": serialize(self.probe_optimizer),
        }

    def compile_from_config(self, config):
        self.compile(
            **{name: keras.saving.deserialize_keras_object(c) for name, c in config.items()}
        )
        self.optimizer.build(self.learned_variables)
        if self.probe is not None:
            self.probe_optimizer.build(self.probe.trainable_variables)

    def _train_probe(self, images, labels):
        with tf.GradientTape() as tape:
            loss = losses.replica_share(self._probe_loss(images, labels))
        self.probe_optimizer.minimize(loss, self.probe.trainable_variables, tape=tape)

    def _probe_loss(self, images, labels):
        parts = MicroBatches(images, self.micro_batch_size)
        h = parts.map(
            lambda part: tf.cast(self.encoder(to_float(part), training=False), tf.float32),
            tf.float32,
        )
        h = tf.stop_gradient(h)
        logits = self.probe(h)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        self._observed.update_probe(loss, labels, logits)
        return tf.reduce_mean(loss)


def _views(batch):
    """[2n, H, W, C] float32, first views then second, from the pipeline's batch or two views."""
    if isinstance(batch, dict):
        return augment.finish_views(batch)
    return tf.concat([to_float(view) for view in batch], axis=0)
