"""`--deterministic` gives the same bits each time on the same machine."""

from __future__ import annotations

import pytest

from tests.faults.runs import assert_same_weights, losses, run

_REFUSES_CHANCE = """
import tensorflow as tf
from tf_simclr import tasks
inner = tasks.run
def run(*arguments):
    try:
        tf.random.Generator.from_non_deterministic_state()
    except RuntimeError as error:
        print("refused:", error)
    inner(*arguments)
tasks.run = run
from tf_simclr.training import Session
Session.hand_over = lambda *args, **kwargs: None  # No export: it takes seconds.
"""


_BFLOAT16 = pytest.param({"precision": "mixed_bfloat16", "virtual_cpus": 2}, marks=pytest.mark.slow)


@pytest.mark.parametrize("more", [{}, _BFLOAT16], ids=["float32", "mixed_bfloat16"])
def test_two_runs_have_the_same_bits(more, tmp_path):
    settings = {"deterministic": True, "train_steps": 20, **more}
    said = [
        run(tmp_path / name, tmp_path / f"{name}.log", prelude=_REFUSES_CHANCE, **settings)
        for name in ("one", "two")
    ]
    # TensorFlow rejects operations that are not deterministic, so the switch is on.
    assert all("refused:" in text for text in said), said
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert_same_weights(tmp_path / "one", tmp_path / "two")
