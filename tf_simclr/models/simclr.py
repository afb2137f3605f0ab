"""SimCLR: the model whose training step is the figure in the paper."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr import augment, losses
from tf_simclr.distribute import num_replicas
from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import synchronize_batch_norm
from tf_simclr.models.heads import ProjectionHead

_UNIFORMITY_ROWS = 512  # Embeddings that the uniformity metric looks at; its cost is quadratic.


@tf.keras.utils.register_keras_serializable(package="tf_simclr")
class SimCLR(tf.keras.Model):
    """A Simple framework for Contrastive Learning of visual Representations (arXiv:2002.05709).

    `fit` takes `two_view_dataset`, or any dataset of (view_a, view_b), each [N, H, W, C] float32
    in [0, 1]. With a probe it takes pairs (one of these as above, (images, labels)): the probe is a
    linear classifier on stop_gradient(h), with its own labelled images and its own optimiser, and
    shows how good the representation is while it trains; it teaches the encoder nothing.

    Under a strategy with several replicas the batch normalisation of encoder and head is
    synchronised, and the negatives are those of the global batch.

    Attributes:
      encoder: f, a Keras model from images to h [N, D].
      projection_head: g, a layer from h to z; default `ProjectionHead()`.
      temperature: T of NT-Xent, > 0.
      probe_classes: number of classes of the online probe; 0: no probe.
      global_batch_norm: whether to synchronise batch normalisation across replicas.
    """

    def __init__(
        self,
        encoder: tf.keras.Model,
        projection_head: tf.keras.layers.Layer | None = None,
        temperature: float = 0.1,
        probe_classes: int = 0,
        global_batch_norm: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        losses.check_temperature(temperature)
        if len(encoder.output_shape) != 2:
            raise UserError(
                "encoder must map images to vectors [N, D]; its output shape is "
                f"{encoder.output_shape}. End it with global average pooling."
            )
        self.encoder = encoder
        self.projection_head = ProjectionHead() if projection_head is None else projection_head
        self.temperature = temperature
        self.probe_classes = probe_classes
        self.global_batch_norm = global_batch_norm
        if not self.projection_head.built:
            self.projection_head.build(encoder.output_shape)
        self.probe = None
        if probe_classes:
            self.probe = tf.keras.layers.Dense(probe_classes, dtype="float32", name="probe")
            self.probe.build(encoder.output_shape)
        for part in (self.encoder, self.projection_head):
            synchronize_batch_norm(part, global_batch_norm and num_replicas() > 1)
        names = ["loss", "contrastive_top1", "contrastive_top5", "embedding_std", "alignment"]
        names += ["uniformity"] + (["probe_loss", "probe_top1"] if probe_classes else [])
        self._means = {name: tf.keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def compile(self, optimizer="rmsprop", probe_optimizer=None, **kwargs):
        """As `keras.Model.compile`, without a loss: NT-Xent is built in.

        Args:
          optimizer: for encoder and projection head.
          probe_optimizer: for the online probe; default Adam.
          **kwargs: jit_compile, steps_per_execution, run_eagerly.
        """
        if kwargs.get("loss") is not None:
            raise UserError(f"SimCLR has its own loss; received loss={kwargs['loss']!r}.")
        super().compile(optimizer=optimizer, **kwargs)
        self.probe_optimizer = tf.keras.optimizers.get(probe_optimizer or "adam")

    @property
    def metrics(self):
        return list(self._means.values())

    @property
    def learned_variables(self) -> list[tf.Variable]:
        """What `optimizer` trains: the weights of f and g, not the probe's."""
        return self.encoder.trainable_variables + self.projection_head.trainable_variables

    def call(self, inputs, training=False):
        """The representation h [N, D] of images [N, H, W, C] float32 in [0, 1], not z."""
        return self.encoder(inputs, training=training)

    def train_step(self, data):
        views, labelled = self._inputs(data)
        with tf.GradientTape() as tape:
            h = self.encoder(views, training=True)
            z_a, z_b = tf.split(self.projection_head(h, training=True), 2)
            contrast = losses.nt_xent(z_a, z_b, self.temperature)
            loss = losses.replica_share(contrast.loss + self._regularization())
        self.optimizer.minimize(loss, self.learned_variables, tape=tape)
        self._observe(contrast, z_a, z_b)
        if labelled is not None:
            self._train_probe(*labelled)
        return {mean.name: mean.result() for mean in self.metrics}

    def test_step(self, data):
        views, labelled = self._inputs(data)
        h = self.encoder(views, training=False)
        z_a, z_b = tf.split(self.projection_head(h, training=False), 2)
        self._observe(losses.nt_xent(z_a, z_b, self.temperature), z_a, z_b)
        if labelled is not None:
            self._probe_loss(*labelled)
        return {mean.name: mean.result() for mean in self.metrics}

    def get_config(self):
        serialize = tf.keras.saving.serialize_keras_object
        return {
            "encoder": serialize(self.encoder),
            "projection_head": serialize(self.projection_head),
            "temperature": self.temperature,
            "probe_classes": self.probe_classes,
            "global_batch_norm": self.global_batch_norm,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            name: tf.keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("encoder", "projection_head")
        }
        return cls(**{**config, **parts})

    def get_compile_config(self):
        if self.optimizer is None:
            return None
        serialize = tf.keras.saving.serialize_keras_object
        return {
            "optimizer": serialize(self.optimizer),
            "probe_optimizer": serialize(self.probe_optimizer),
        }

    def compile_from_config(self, config):
        self.compile(
            **{name: tf.keras.saving.deserialize_keras_object(c) for name, c in config.items()}
        )
        self.optimizer.build(self.learned_variables)
        if self.probe is not None:
            self.probe_optimizer.build(self.probe.trainable_variables)

    def _inputs(self, data):
        """(views [2N, H, W, C], (images, labels) or None) from what the data set yields."""
        labelled = None
        if self.probe is not None:
            data, labelled = data
        if isinstance(data, dict):
            return augment.finish_views(data), labelled
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            received = f"{len(data)} of them" if isinstance(data, (tuple, list)) else data
            raise UserError(
                "SimCLR trains on batches of two_view_dataset or on two views (view_a, view_b); "
                f"received {received}."
            )
        return tf.concat(data, axis=0), labelled

    def _regularization(self):
        own = self.encoder.losses + self.projection_head.losses
        return tf.add_n([tf.cast(loss, tf.float32) for loss in own]) if own else 0.0

    def _observe(self, contrast, z_a, z_b):
        rank = contrast.positive_rank
        observed = {
            "loss": contrast.loss,
            "contrastive_top1": tf.cast(rank < 1, tf.float32),
            "contrastive_top5": tf.cast(rank < 5, tf.float32),
            "embedding_std": losses.embedding_std(z_a),
            "alignment": losses.alignment(z_a, z_b),
            "uniformity": losses.uniformity(z_a[:_UNIFORMITY_ROWS]),
        }
        for name, value in observed.items():
            self._means[name].update_state(value)

    def _train_probe(self, images, labels):
        with tf.GradientTape() as tape:
            loss = losses.replica_share(self._probe_loss(images, labels))
        self.probe_optimizer.minimize(loss, self.probe.trainable_variables, tape=tape)

    def _probe_loss(self, images, labels):
        h = tf.stop_gradient(self.encoder(images, training=False))
        logits = self.probe(h)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        self._means["probe_loss"].update_state(loss)
        self._means["probe_top1"].update_state(
            tf.keras.metrics.sparse_categorical_accuracy(labels, logits)
        )
        return tf.reduce_mean(loss)
