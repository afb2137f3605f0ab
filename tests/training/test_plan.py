"""From epochs to steps; the warmup that nobody asked for fits into any run."""

from __future__ import annotations

import pytest

from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.tasks import build


def warmup(images=1000, batch=100, **settings):
    config = Config(workdir="w", train_batch_size=batch, **settings)
    return build.plan_of(config, images, replicas=1).warmup_steps


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"train_steps": 3}, 0),
        ({"train_steps": 1}, 0),
        ({"train_steps": 10}, 1),
        ({"train_epochs": 1}, 1),
        ({"train_epochs": 10}, 10),
        ({"train_epochs": 100}, 100),  # Ten epochs of ten steps.
        ({"train_epochs": 1000}, 100),
        ({"train_epochs": 5, "images": 100}, 0),
        ({"mode": "finetune", "init_from": "x", "train_steps": 20}, 2),
    ],
)
def test_unless_set_the_warmup_is_ten_epochs_and_at_most_a_tenth(settings, steps):
    assert warmup(**settings) == steps


@pytest.mark.parametrize(
    ("epochs", "steps"), [(0.0, 0), (-0.0, 0), (2.0, 20), (3.0, 30), (0.25, 2)]
)
def test_a_warmup_that_is_set_is_kept(epochs, steps):
    assert warmup(warmup_epochs=epochs, train_steps=30) == steps


def test_a_warmup_that_is_set_and_too_long_is_refused():
    with pytest.raises(
        UserError, match="--warmup_epochs=10 is 100 steps, longer than the run of 3"
    ):
        warmup(warmup_epochs=10.0, train_steps=3)
