"""The projection head g: from the representation h to the embedding z, dropped after training."""

from __future__ import annotations

import numbers

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.stack import keras

_EPSILON, _DECAY = 1e-5, 0.9


@keras.utils.register_keras_serializable(package="tf_simclr")
class ProjectionHead(keras.layers.Layer):
    """Dense layers with batch normalisation, and ReLU between them.

    Layers 1 to n - 1: Dense, batch normalisation, ReLU, as wide as h. Layer n: Dense to `out_dim`,
    batch normalisation without offset. (SimCLR, arXiv:2002.05709, section 4.2; SimCLRv2,
    arXiv:2006.10029, section 2.1; details as in google-research/simclr, tf2/model.py.)

    Attributes:
      num_layers: n; 2 in SimCLR, 3 in SimCLRv2; 1: linear; 0: z is h.
      out_dim: D of z.
      hidden_dim: width of layers 1 to n - 1; None: that of h.
    """

    def __init__(
        self, num_layers: int = 3, out_dim: int = 128, hidden_dim: int | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        if not isinstance(num_layers, numbers.Integral) or num_layers < 0:
            raise UserError(f"num_layers must be >= 0; received {num_layers!r}.")
        if not isinstance(out_dim, numbers.Integral) or out_dim < 1:
            raise UserError(f"out_dim must be positive; received {out_dim!r}.")
        if hidden_dim is not None and (
            not isinstance(hidden_dim, numbers.Integral) or hidden_dim < 1
        ):
            raise UserError(f"hidden_dim must be positive; received {hidden_dim!r}.")
        self.num_layers = num_layers
        self.out_dim = out_dim
        self.hidden_dim = hidden_dim
        self.dense: list[keras.layers.Layer] = []
        self.norms: list[keras.layers.Layer] = []

    def build(self, input_shape):
        width = input_shape[-1]
        for i in range(self.num_layers):
            last = i == self.num_layers - 1
            units = self.out_dim if last else (self.hidden_dim or input_shape[-1])
            dense = keras.layers.Dense(
                units,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                dtype=self.dtype_policy,
                name=f"dense_{i + 1}",
            )
            norm = keras.layers.BatchNormalization(
                momentum=_DECAY,
                epsilon=_EPSILON,
                center=not last,
                dtype=self.dtype_policy,
                name=f"norm_{i + 1}",
            )
            # Without scopes all kernels would be named "kernel"; HDF5 does not accept equal names.
            for layer, size in ((dense, width), (norm, units)):
                with tf.name_scope(layer.name):
                    layer.build([None, size])
            self.dense.append(dense)
            self.norms.append(norm)
            width = units
        super().build(input_shape)

    def call(self, inputs, training=False, num_layers: int | None = None):
        """Computes z from h [N, D].

        With `num_layers`, applies only that many layers: SimCLRv2 fine-tunes from there.

        Returns:
          float32 [N, out_dim], or as wide as the last layer applied.

        Raises:
          UserError: `num_layers` is not in [0, self.num_layers].
        """
        if num_layers is not None and num_layers not in range(self.num_layers + 1):
            raise UserError(
                f"num_layers must be 0 to {self.num_layers}, the layers of this head; "
                f"received {num_layers!r}."
            )
        x = inputs
        stop = self.num_layers if num_layers is None else num_layers
        for i, (dense, norm) in enumerate(zip(self.dense[:stop], self.norms)):
            x = norm(dense(x), training=training)
            if i < self.num_layers - 1:
                x = tf.nn.relu(x)
        return tf.cast(x, tf.float32)

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "out_dim": self.out_dim,
            "hidden_dim": self.hidden_dim,
        }
