"""Gradients with few stored activations, which are recomputed in the backward pass.

Two methods, which combine. Gradient caching (Gao et al. 2021, arXiv:2101.06983) processes the
batch in parts, twice: first for the embeddings, which give the loss over the whole batch and its
gradient dL/dz, then with each part's dL/dz for the weight gradients. Rematerialisation stores only
the input of each segment of the encoder, and recomputes the rest in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.models.keras_internals import make_random_state_readable, random_state
from tf_simclr.models.micro_batches import MicroBatches
from tf_simclr.stack import keras


class Network:
    """f and g as a chain of segments, with a backward pass of its own.

    Attributes:
      segments: lists of layers, each applied to the output of the one before; segments share no
        weights. With one segment nothing is rematerialised.

    Raises:
      UserError: segments share weights.
    """

    def __init__(self, segments: list[list[keras.layers.Layer]]):
        self.segments = segments
        for segment in segments:
            for layer in segment:
                make_replayable(layer)
        seen = {}
        for number, segment in enumerate(segments):
            for variable in [v for layer in segment for v in layer.variables]:
                if seen.setdefault(variable.ref(), number) != number:
                    raise UserError(
                        "rematerialize cannot recompute blocks one by one that share a layer, that "
                        f"of {variable.name!r}; use micro_batch_size instead."
                    )

    @property
    def variables(self) -> list[tf.Variable]:
        """The trainable variables of all segments, in the order of `gradients`."""
        return [variable for segment in self.segments for variable in _trainable(segment)]

    @property
    def state(self) -> list[tf.Variable]:
        """The variables that a forward pass in training updates."""
        return [variable for segment in self.segments for variable in _state(segment)]

    def enter(self, x: tf.Tensor) -> list[tuple]:
        """Runs all segments but the last, in training.

        Returns:
          (input, state before the segment ran) of every segment.
        """
        trail = []
        for segment in self.segments:
            if trail:
                x = _run(self.segments[len(trail) - 1], x)
            trail.append((x, read(_state(segment))))
        return trail

    def leave(self, trail: list[tuple]) -> tf.Tensor:
        """The output of the last segment, in training; float32."""
        return tf.cast(_run(self.segments[-1], trail[-1][0]), tf.float32)

    def gradients(self, trail, upstream: tf.Tensor, penalty_share) -> list[tf.Tensor]:
        """The gradients of sum(upstream * output) + penalty_share * (the layers' own losses).

        Runs every segment again, from the state in which it ran before: Keras' dropout and noise
        layers draw the same values, and moving statistics end where the first run left them.
        Other random operations would draw new values.
        """
        gradients = []
        for segment, (x, before) in zip(reversed(self.segments), reversed(trail)):
            write(_state(segment), before)
            x = _after(upstream, x)
            variables = _trainable(segment)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.cast(_run(segment, x), upstream.dtype)
                penalty = penalty_share * penalties(segment)
            upstream, *own = tape.gradient(
                [y, penalty],
                [x, *variables],
                output_gradients=[upstream, tf.ones([])],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            gradients = own + gradients
        return gradients


def forward(network: Network, batch, views_of: Callable, size: int | None):
    """The embeddings of a batch, and a function from their gradient to that of the weights.

    Args:
      network: f and g.
      batch: tensors [n, ...], in any nesting.
      views_of: maps a part of the batch to its views [2m, H, W, C], first views before second;
        the same each time it is called.
      size: images in a part; None: the whole batch.

    Returns:
      z_a and z_b [n, D] float32; and a function of (dL/dz_a, dL/dz_b, penalty_share) that gives the
      gradients of `network.variables`, to be called once.

    Raises:
      UserError: `size` does not divide the batch.
    """
    parts = MicroBatches(batch, size)
    if parts.count == 1:
        trail = network.enter(views_of(batch))
        z_a, z_b = tf.split(network.leave(trail), 2)

        def backward_whole(dz_a, dz_b, penalty_share):
            return network.gradients(trail, tf.concat([dz_a, dz_b], axis=0), penalty_share)

        return z_a, z_b, backward_whole

    before = read(network.state)
    z_a, z_b = parts.map(
        lambda part: tuple(tf.split(network.leave(network.enter(views_of(part))), 2)),
        (tf.float32, tf.float32),
    )

    def backward_by_parts(dz_a, dz_b, penalty_share):
        def of_part(part):
            batch, *upstream = part
            trail = network.enter(views_of(batch))
            return network.gradients(trail, tf.concat(upstream, 0), penalty_share / parts.count)

        write(network.state, before)
        return MicroBatches((batch, dz_a, dz_b), size).sum(of_part, like=network.variables)

    return z_a, z_b, backward_by_parts


def read(variables: list[tf.Variable]) -> list[tf.Tensor]:
    """Copies of the current values, unaffected by later assignments."""
    return [tf.identity(variable.read_value()) for variable in variables]


def write(variables: list[tf.Variable], values: list[tf.Tensor]) -> None:
    """Assigns the values; on this replica only, if each replica has its own."""
    for variable, value in zip(variables, values):
        variable.assign(value)


def penalties(layers: list[keras.layers.Layer]) -> tf.Tensor:
    """The sum of the layers' own losses, such as weight regularisation; scalar float32."""
    own = [tf.cast(loss, tf.float32) for layer in layers for loss in layer.losses]
    return tf.add_n([tf.zeros([]), *own])


def make_replayable(layer: keras.layers.Layer) -> None:
    """Gives Keras' dropout and noise layers, however deep, generators whose state can be read.

    Keras' default uses random operations that cannot be replayed.
    """
    for part in (layer, *layer.submodules):
        make_random_state_readable(part)


def _run(segment, x):
    for layer in segment:
        x = layer(x, training=True)
    return x


def _trainable(segment):
    return [variable for layer in segment for variable in layer.trainable_variables]


def _state(segment):
    """Moving statistics, and the states of random generators (`make_replayable`).

    Includes weights of frozen layers, which Keras does not distinguish from statistics.
    """
    parts = [part for layer in segment for part in (layer, *layer.submodules)]
    states = [random_state(part) for part in parts]
    moving = [variable for layer in segment for variable in layer.non_trainable_variables]
    return moving + [state for state in states if state is not None]


def _after(gate: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """x, made to depend on `gate`.

    Otherwise the recomputation would be merged with the first computation, or run too early. XLA
    ignores control dependencies, so this adds a 0 that XLA cannot recognise as constant.
    """
    gate = tf.reshape(gate, [-1])[0]
    nothing = tf.where(tf.math.is_finite(gate), gate, tf.zeros_like(gate)) * 0.0
    return x + tf.cast(nothing, x.dtype)
