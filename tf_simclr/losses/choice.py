"""Chooses a model's loss from its arguments: a loss, a temperature, or neither."""

from __future__ import annotations

from tf_simclr.errors import UserError
from tf_simclr.losses.contrast import ContrastiveLoss
from tf_simclr.losses.nt_xent import NTXent


def chosen_loss(loss: ContrastiveLoss | None, temperature: float | None) -> ContrastiveLoss:
    """Returns `loss`, or NT-Xent with the given temperature (or its default).

    Raises:
      UserError: both are given, or `loss` is not a `ContrastiveLoss`.
    """
    if loss is None:
        return NTXent() if temperature is None else NTXent(temperature)
    if not isinstance(loss, ContrastiveLoss):
        raise UserError(f"loss must be a ContrastiveLoss, such as NTXent(0.1); received {loss!r}.")
    if temperature is not None:
        raise UserError(
            f"temperature={temperature!r} is short for loss=NTXent({temperature!r}), but loss is "
            f"given too, {loss.name!r}; give only one of them."
        )
    return loss
