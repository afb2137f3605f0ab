"""Gradients of a network that keeps few activations: it computes them a second time.

Two ways, which combine. Gradient caching (Gao et al. 2021, arXiv:2101.06983) goes through the batch
in parts: once for the embeddings, from which the loss over the whole batch and its gradient dL/dz
follow, and once more with each part's dL/dz for its gradients. Rematerialisation keeps of a forward
pass what enters each segment of the encoder, and computes the inside again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.errors import UserError


class Network:
    """f and g as a chain of segments, with a backward pass of its own.

    Attributes:
      segments: lists of layers, each layer of the output of the one before; segments have no
        weights in common. One segment: nothing is rematerialised.

    Raises:
      UserError: segments have weights in common.
    """

    def __init__(self, segments: list[list[tf.keras.layers.Layer]]):
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
        """What the gradients are of: the trainable variables of all segments, in order."""
        return [variable for segment in self.segments for variable in _trainable(segment)]

    @property
    def state(self) -> list[tf.Variable]:
        """What a forward pass in training moves."""
        return [variable for segment in self.segments for variable in _state(segment)]

    def enter(self, x: tf.Tensor) -> list[tuple]:
        """Runs all segments but the last, in training.

        Returns:
          For every segment its input and its state before it ran.
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
        layers draw the same, and moving statistics end where the first run left them. Random
        operations that are no such layers would draw anew.
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
    """The embeddings of a batch, and how to get from their gradient to that of the weights.

    Args:
      network: f and g.
      batch: tensors [n, ...], in any nesting.
      views_of: from a part of the batch to its views [2m, H, W, C], first views before second;
        the same each time it is called.
      size: images in a part; None: the whole batch.

    Returns:
      z_a and z_b [n, D] float32; and a function of (dL/dz_a, dL/dz_b, penalty_share) that gives the
      gradients of `network.variables`, to be called once.

    Raises:
      UserError: `size` does not divide the batch.
    """
    parts = Parts(batch, size)
    if parts.count == 1:
        trail = network.enter(views_of(batch))
        z_a, z_b = tf.split(network.leave(trail), 2)
        return (
            z_a,
            z_b,
            lambda dz_a, dz_b, penalty_share: network.gradients(
                trail, tf.concat([dz_a, dz_b], axis=0), penalty_share
            ),
        )

    before = read(network.state)
    z_a, z_b = parts.map(
        lambda part: tuple(tf.split(network.leave(network.enter(views_of(part))), 2)),
        (tf.float32, tf.float32),
    )

    def backward(dz_a, dz_b, penalty_share):
        def of_part(part):
            batch, *upstream = part
            trail = network.enter(views_of(batch))
            return network.gradients(trail, tf.concat(upstream, 0), penalty_share / parts.count)

        write(network.state, before)
        return Parts((batch, dz_a, dz_b), size).sum(of_part, like=network.variables)

    return z_a, z_b, backward


class Parts:
    """A batch in parts of consecutive images.

    Attributes:
      count: how many.
    """

    def __init__(self, batch, size: int | None):
        """
        Args:
          batch: tensors [n, ...] in any nesting.
          size: images in a part; None: the whole batch is the one part.

        Raises:
          UserError: n is not known in advance, or `size` does not divide it.
        """
        n = tf.nest.flatten(batch)[0].shape[0]
        self._batch, self.count = batch, 1
        if size is None:
            return
        if n is None or n % size:
            raise UserError(
                f"micro_batch_size={size} must divide the batch of a replica, which has "
                f"{'a size unknown in advance' if n is None else f'{n} images'}. "
                + ("Batch with drop_remainder=True." if n is None else "")
            )
        self.count = n // size

    def __getitem__(self, i):
        if self.count == 1:
            return self._batch

        def part(x):
            return tf.reshape(x, [self.count, x.shape[0] // self.count, *x.shape[1:]])[i]

        return tf.nest.map_structure(part, self._batch)

    def map(self, function: Callable, dtypes):
        """`function` of each part, one after the other: tensors [rows, ...], concatenated."""
        if self.count == 1:
            return function(self[0])
        results = tf.map_fn(
            lambda i: function(self[i]),
            tf.range(self.count),
            fn_output_signature=dtypes,
            parallel_iterations=1,
        )
        return tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), results)

    def sum(self, function: Callable, like: list) -> list[tf.Tensor]:
        """The sum over the parts of `function`, which returns tensors shaped as `like`."""
        if self.count == 1:
            return function(self[0])

        def add(i, total):
            return [i + 1, [a + b for a, b in zip(total, function(self[i]))]]

        zeros = [tf.zeros(x.shape, x.dtype) for x in like]
        _, total = tf.while_loop(
            lambda i, _: i < self.count,
            add,
            [tf.constant(0), zeros],
            parallel_iterations=1,
            maximum_iterations=self.count,
        )
        return total


def segments_of(encoder: tf.keras.Model) -> list[tf.keras.Model]:
    """An encoder in segments that begin where its blocks begin; they share the encoder's weights.

    A residual or dense block begins where a tensor, alone, is read by several layers, or by a layer
    that is made of layers.

    Raises:
      UserError: the encoder is no functional model, or has no such place.
    """
    if not hasattr(encoder, "_nodes_by_depth"):
        raise UserError(
            f"rematerialize needs an encoder made as tf.keras.Model(inputs, outputs); received a "
            f"{type(encoder).__name__}."
        )
    nodes = [
        node
        for depth in sorted(encoder._nodes_by_depth, reverse=True)
        for node in encoder._nodes_by_depth[depth]
        if not node.is_input
    ]
    readers: dict[int, list[int]] = {}
    for position, node in enumerate(nodes):
        for tensor in tf.nest.flatten(node.keras_inputs):
            readers.setdefault(id(tensor), []).append(position)
    # A tensor is alone when nothing made before it is read after it.
    last_read, cuts = max(readers[id(encoder.input)]), []
    for position, node in enumerate(nodes):
        outputs = tf.nest.flatten(node.outputs)
        reading = [reader for tensor in outputs for reader in readers.get(id(tensor), [])]
        begins = len(reading) > 1 or any(_is_composite(nodes[i].layer) for i in reading)
        if last_read <= position and begins and len(outputs) == 1:
            cuts.append(outputs[0])
        last_read = max([last_read, *reading])
    if not cuts:
        raise UserError(
            f"rematerialize found no residual blocks in encoder {encoder.name!r}; use "
            "micro_batch_size instead."
        )
    ends = zip([encoder.input, *cuts], [*cuts, encoder.output])
    return [tf.keras.Model(begin, end) for begin, end in ends]


def read(variables: list[tf.Variable]) -> list[tf.Tensor]:
    """Their values now, whatever is assigned later."""
    return [tf.identity(variable.read_value()) for variable in variables]


def write(variables: list[tf.Variable], values: list[tf.Tensor]) -> None:
    """Assigns the values, of this replica where each replica has its own."""
    for variable, value in zip(variables, values):
        variable.assign(value)


def penalties(layers: list[tf.keras.layers.Layer]) -> tf.Tensor:
    """The sum of the layers' own losses, such as weight regularisation; scalar float32."""
    own = [tf.cast(loss, tf.float32) for layer in layers for loss in layer.losses]
    return tf.add_n([tf.zeros([]), *own])


def make_replayable(layer: tf.keras.layers.Layer) -> None:
    """Gives Keras' dropout and noise layers, however deep, generators whose state can be read.

    Keras' default draws from operations that cannot be asked to draw the same again.
    """
    for part in (layer, *layer.submodules):
        generator = getattr(part, "_random_generator", None)
        if generator is not None:
            if generator._rng_type == "legacy_stateful":
                generator = type(generator)(generator._seed, rng_type="stateful")
                part._random_generator = generator
            generator._maybe_init()


def _run(segment, x):
    for layer in segment:
        x = layer(x, training=True)
    return x


def _is_composite(layer):
    return any(True for _ in layer._flatten_layers(include_self=False))


def _trainable(segment):
    return [variable for layer in segment for variable in layer.trainable_variables]


def _state(segment):
    """Moving statistics, and the states of random generators (`make_replayable`)."""
    parts = [part for layer in segment for part in (layer, *layer.submodules)]
    generators = [getattr(getattr(p, "_random_generator", None), "_generator", None) for p in parts]
    moving = [variable for layer in segment for variable in layer.non_trainable_variables]
    return moving + [generator.state for generator in generators if generator is not None]


def _after(gate: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """x, computed with only once `gate` is known.

    Else what is recomputed would be recognised as computed before and be kept, or be computed at
    once. XLA ignores control dependencies, so it takes a number, which XLA does not know to be 0.
    """
    gate = tf.reshape(gate, [-1])[0]
    nothing = tf.where(tf.math.is_finite(gate), gate, tf.zeros_like(gate)) * 0.0
    return x + tf.cast(nothing, x.dtype)
