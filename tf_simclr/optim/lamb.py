"""LAMB: Adam's moments with LARS' layer-wise learning rate."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_simclr.errors import UserError
from tf_simclr.optim.lars import is_adapted
from tf_simclr.stack import keras


def lamb_update(w, g, m, v, step, lr, beta_1, beta_2, epsilon, weight_decay, adapt):
    """One LAMB step (You et al. 2019, arXiv:1904.00962, Algorithm 2, with phi(z) = z).

        m      <- beta_1 * m + (1 - beta_1) * g
        v      <- beta_2 * v + (1 - beta_2) * g^2
        m_hat  <- m / (1 - beta_1^step)
        v_hat  <- v / (1 - beta_2^step)
        update <- m_hat / (sqrt(v_hat) + epsilon) + weight_decay * w
        trust  <- |w| / |update|          (1 where |w| or |update| is 0)
        w      <- w - lr * trust * update

    Differs from the paper, whose trust ratio is 0 where |w| is 0, so that such a kernel never
    changes. Trust 1 is as in tensorflow-addons
    (https://github.com/tensorflow/addons/blob/v0.23.0/tensorflow_addons/optimizers/lamb.py).

    Args:
      w, g, m, v: the variable, its gradient and its two moments, of the same shape, float32.
      step: the number of this step, from 1, scalar float32.
      lr, epsilon, weight_decay: scalars.
      beta_1, beta_2: decay of the moments, Python floats in (0, 1).
      adapt: whether to apply the trust ratio; False: trust 1.

    Returns:
      (w, m, v) after the step.
    """
    m = beta_1 * m + (1.0 - beta_1) * g
    v = beta_2 * v + (1.0 - beta_2) * tf.square(g)
    m_hat = m / _one_minus_power(beta_1, step)
    v_hat = v / _one_minus_power(beta_2, step)
    update = m_hat / (tf.sqrt(v_hat) + epsilon) + weight_decay * w
    trust = 1.0
    if adapt:
        w_norm, norm = tf.norm(w), tf.norm(update)
        trust = tf.where((w_norm > 0) & (norm > 0), tf.math.divide_no_nan(w_norm, norm), 1.0)
    return w - lr * trust * update, m, v


def _one_minus_power(beta: float, step):
    """1 - beta^step, without the loss of half the float32 digits at the first steps."""
    return -tf.math.expm1(step * math.log(beta))


@keras.utils.register_keras_serializable(package="tf_simclr")
class LAMB(keras.optimizers.Optimizer):
    """`lamb_update` as a Keras optimiser.

    Variables of rank <= 1 (biases; gamma and beta of normalisation) get plain Adam, without weight
    decay or adaptation.
    Differs from tensorflow-addons, which excludes variables by patterns of names, not by rank.

    Attributes:
      learning_rate: float or schedule.
      beta_1: decay of the mean of the gradients, in (0, 1).
      beta_2: decay of the mean of their squares, in (0, 1).
      epsilon: added to the square root of that mean, > 0.
      lamb_weight_decay: the argument `weight_decay`, >= 0; decoupled, and part of the trust ratio.

    Raises:
      UserError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        name: str = "LAMB",
        **kwargs,
    ):
        for argument, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0.0 < beta < 1.0:
                raise UserError(f"{argument} must lie in (0, 1); received {beta!r}.")
        if not epsilon > 0.0:
            raise UserError(f"epsilon must be positive; received {epsilon!r}.")
        if not weight_decay >= 0.0:
            raise UserError(f"weight_decay must be >= 0; received {weight_decay!r}.")
        # Keras would apply its own weight decay before the update, outside the trust ratio.
        super().__init__(name=name, weight_decay=None, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.lamb_weight_decay = weight_decay

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self.first_moments = [self.add_variable_from_reference(v, "m") for v in var_list]
        self.second_moments = [self.add_variable_from_reference(v, "v") for v in var_list]
        self._built = True

    def update_step(self, gradient, variable):
        index = self._index_dict[self._var_key(variable)]
        first, second = self.first_moments[index], self.second_moments[index]
        adapted = is_adapted(variable)
        w, m, v = lamb_update(
            variable,
            tf.convert_to_tensor(gradient),
            first,
            second,
            step=tf.cast(self.iterations + 1, variable.dtype),
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self.lamb_weight_decay if adapted else 0.0,
            adapt=adapted,
        )
        first.assign(m)
        second.assign(v)
        variable.assign(w)

    def get_config(self):
        config = super().get_config()
        config.update(
            learning_rate=self._serialize_hyperparameter(self._learning_rate),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self.lamb_weight_decay,
        )
        return config
