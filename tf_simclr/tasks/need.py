"""The memory that a training step needs, read off its graph."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tf_simclr.checkpoints import variable_paths
from tf_simclr.config import Config
from tf_simclr.data.image_source import Source
from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import array_source
from tf_simclr.losses import ContrastiveLoss, contrast_of
from tf_simclr.tasks import build, inputs
from tf_simclr.training.memory import peak_bytes

SHARE = 0.9  # Share of the free memory that a step may take.
_TRACED = (64, 128)  # Batches of the traced steps: memory is linear in the number of images.
_GIB = 2**30
# Memory beyond the tensors: scratch space of kernels, gaps in the allocator, compiled code
# (benchmarks/step_memory.py).
_SCRATCH, _PROCESS = 1.15, 0.3 * _GIB


@dataclasses.dataclass(frozen=True)
class Need:
    """The memory that a step needs, in bytes.

    Attributes:
      parameters: number of trainable parameters.
      variables: weights, moving statistics and optimiser variables.
      fixed: tensors that do not grow with the batch, mainly gradients.
      per_image: activations of one image.
      per_stored_image: the two uint8 views of an image that waits for its micro-batch.
      loss: the loss and its gradient, as on one replica.
      embedding_dim: D of z.
    """

    parameters: int
    variables: int
    fixed: int
    per_image: int
    per_stored_image: int
    loss: int
    embedding_dim: int

    @classmethod
    def of(cls, config: Config, source: Source, plan) -> Need:
        """Traces a step at two batch sizes, and the loss of the whole batch."""
        few = dataclasses.replace(config, micro_batch_size=0)
        with build.precision(config):
            model = build.simclr_of(few, source.channels, plan, 0)
        low, high = (
            peak_bytes(
                tf.function(model.train_step).get_concrete_function(_batch(config, source, n))
            )
            for n in _TRACED
        )
        per_image = (high - low) // (_TRACED[1] - _TRACED[0])
        width = build.embedding_dim(config, model.encoder)
        z = tf.TensorSpec([config.train_batch_size, width])
        labels = tf.TensorSpec([config.train_batch_size], tf.int64)
        loss = _with_gradient(model.contrastive_loss)
        variables = variable_paths(tf.train.Checkpoint(model=model)).values()
        return cls(
            parameters=sum(v.shape.num_elements() for v in model.learned_variables),
            variables=sum(map(_size, variables)),
            fixed=low - _TRACED[0] * per_image,
            per_image=per_image,
            per_stored_image=2 * config.image_size**2 * source.channels,
            loss=peak_bytes(loss.get_concrete_function(z, z, labels)),
            embedding_dim=width,
        )

    def bytes(self, share: int, micro: int) -> int:
        """The bytes of a step on `share` images, `micro` at a time."""
        # Micro-batches also need the stored batch, and two copies of the sum of gradients (the old
        # one and the one that replaces it).
        in_parts = share * self.per_stored_image + 2 * 4 * self.parameters if micro < share else 0
        step = self.variables + self.fixed + micro * self.per_image + in_parts
        step = max(step, self.variables + in_parts + self.loss)
        return int(_SCRATCH * step + _PROCESS)

    def micro_batches(self, share: int, free: float) -> list[int]:
        """The sizes of micro-batches of which a step on `share` images fits into `free` bytes.

        They are divisors of `share`, in increasing order; `share` itself stands for no parts.
        """
        divisors = [d for d in range(1, share + 1) if share % d == 0]
        return [d for d in divisors if self.bytes(share, d) <= SHARE * free]


def _with_gradient(loss: ContrastiveLoss):
    """A function of z_a, z_b [n, D] and labels [n], to the loss of a step and its gradient."""

    @tf.function
    def compute(z_a, z_b, labels):
        with tf.GradientTape() as tape:
            tape.watch([z_a, z_b])
            contrast = contrast_of(loss, z_a, z_b, labels)
        return contrast, tape.gradient(contrast.loss, [z_a, z_b])

    return compute


def _batch(config, source, images):
    """The element spec of a batch of `images` images."""
    blank = np.zeros([images, 8, 8, source.channels], np.uint8)
    dataset = two_view_dataset(
        array_source(blank, np.zeros(images, np.int64)),
        batch_size=images,
        image_size=config.image_size,
        labels=inputs.needs_labels(config),
        **inputs.view_options(config),
    )
    return dataset.element_spec


def _size(variable):
    return variable.shape.num_elements() * variable.dtype.size
