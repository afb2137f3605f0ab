"""LARS: layer-wise adaptive rate scaling, the paper's optimiser for large batches."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.stack import keras


def lars_update(w, g, v, lr, momentum, weight_decay, eta):
    """One LARS step (You et al. 2017, arXiv:1708.03888), in the form of SimCLR's reference.

        g     <- g + weight_decay * w
        trust <- eta * |w| / |g|          (1 where |w| or |g| is 0)
        v     <- momentum * v + lr * trust * g
        w     <- w - v

    The learning rate is inside the momentum buffer, so a new rate takes effect gradually. lightly
    and solo-learn apply it outside, which differs unless the rate is constant.

    Args:
      w, g, v: the variable, its gradient and its momentum, of the same shape, float32.
      lr, momentum, weight_decay: scalars.
      eta: the trust coefficient; None: no adaptation (trust 1).

    Returns:
      (w, v) after the step.
    """
    g = g + weight_decay * w
    trust = 1.0
    if eta is not None:
        w_norm, g_norm = tf.norm(w), tf.norm(g)
        trust = tf.where(
            (w_norm > 0) & (g_norm > 0), tf.math.divide_no_nan(eta * w_norm, g_norm), 1.0
        )
    v = momentum * v + lr * trust * g
    return w - v, v


@keras.utils.register_keras_serializable(package="tf_simclr")
class LARS(keras.optimizers.Optimizer):
    """`lars_update` as a Keras optimiser.

    Variables of rank <= 1 (biases; gamma and beta of normalisation) get plain momentum, without
    weight decay or adaptation (paper, appendix B.6, and the reference's exclusion list).
    Differs from google-research/simclr (tf2/lars_optimizer.py), which excludes variables by name,
    not by rank.

    Attributes:
      learning_rate: float or schedule.
      momentum: decay of the momentum buffer, in [0, 1).
      lars_weight_decay: the argument `weight_decay`, a coupled l2 coefficient, >= 0.
      eta: trust coefficient, > 0.

    Raises:
      UserError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        name: str = "LARS",
        **kwargs,
    ):
        if not 0.0 <= momentum < 1.0:
            raise UserError(f"momentum must lie in [0, 1); received {momentum!r}.")
        if weight_decay < 0.0:
            raise UserError(f"weight_decay must be >= 0; received {weight_decay!r}.")
        if eta <= 0.0:
            raise UserError(f"eta must be positive; received {eta!r}.")
        # Keras' own weight decay is decoupled, and would be applied in addition.
        super().__init__(name=name, weight_decay=None, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.lars_weight_decay = weight_decay
        self.eta = eta

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self.velocities = [self.add_variable_from_reference(v, "velocity") for v in var_list]
        self._built = True

    def update_step(self, gradient, variable):
        lr = tf.cast(self.learning_rate, variable.dtype)
        velocity = self.velocities[self._index_dict[self._var_key(variable)]]
        gradient = tf.convert_to_tensor(gradient)
        adapted = is_adapted(variable)
        w, v = lars_update(
            variable,
            gradient,
            velocity,
            lr,
            momentum=self.momentum,
            weight_decay=self.lars_weight_decay if adapted else 0.0,
            eta=self.eta if adapted else None,
        )
        velocity.assign(v)
        variable.assign(w)

    def get_config(self):
        config = super().get_config()
        config.update(
            learning_rate=self._serialize_hyperparameter(self._learning_rate),
            momentum=self.momentum,
            weight_decay=self.lars_weight_decay,
            eta=self.eta,
        )
        return config


def is_adapted(variable) -> bool:
    """Whether weight decay and adaptation apply to a variable: only to kernels (rank >= 2)."""
    return variable.shape.rank > 1
