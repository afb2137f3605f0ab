"""The learning rate: its scaling with the batch, and its warmup and cosine decay."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_simclr.errors import UserError, unknown_name
from tf_simclr.stack import keras

SCALINGS = ("linear", "sqrt", "none")


def scaled_learning_rate(base: float, batch_size: int, scaling: str = "linear") -> float:
    """The peak learning rate for a batch (SimCLR, arXiv:2002.05709, section 2.2 and appendix B.1).

    Args:
      base: `learning_rate` as given, per 256 images under "linear", per image under "sqrt".
      batch_size: N, the global batch in images (pairs of views).
      scaling: "linear" (base * N / 256), "sqrt" (base * sqrt(N)) or "none" (base).

    Returns:
      The peak learning rate.
    """
    if scaling == "linear":
        return base * batch_size / 256.0
    if scaling == "sqrt":
        return base * math.sqrt(batch_size)
    if scaling == "none":
        return base
    raise unknown_name("learning_rate_scaling", scaling, SCALINGS)


@keras.utils.register_keras_serializable(package="tf_simclr")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup, then one half period of a cosine to zero (paper, appendix B.6).

        step < warmup:  peak * step / warmup
        else:           peak * (1 + cos(pi * (step - warmup) / (total - warmup))) / 2

    It reaches exactly 0 at `total_steps`, where training ends, and stays 0 afterwards.

    Attributes:
      peak: learning rate at the end of warmup.
      warmup_steps: steps of warmup; 0 starts at the peak.
      total_steps: steps of the whole run, warmup included.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int, name: str | None = None):
        super().__init__()
        if peak < 0 or not math.isfinite(peak):
            raise UserError(f"peak must be a finite rate >= 0; received {peak!r}.")
        if total_steps <= 0:
            raise UserError(f"total_steps must be positive; received {total_steps!r}.")
        if not 0 <= warmup_steps <= total_steps:
            raise UserError(
                f"warmup_steps must lie in [0, total_steps={total_steps}]; "
                f"received {warmup_steps!r}. Shorten the warmup or train longer."
            )
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.name = name

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        warmup = float(self.warmup_steps)
        decay = float(max(self.total_steps - self.warmup_steps, 1))
        rising = step / max(warmup, 1.0)
        progress = tf.clip_by_value((step - warmup) / decay, 0.0, 1.0)
        falling = 0.5 * (1.0 + tf.cos(math.pi * progress))
        falling = tf.where(step >= float(self.total_steps), 0.0, falling)
        return self.peak * tf.where(step < warmup, rising, falling)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "name": self.name,
        }
