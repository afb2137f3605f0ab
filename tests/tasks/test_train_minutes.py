"""--train_minutes: the training is that of the steps it chooses, which are chosen once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.command_line import parse
from tests.small_runs import SMALL, lines, run
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.flagfile import from_flagfile, to_flagfile
from tf_simclr.inherited import settings_of_run
from tf_simclr.stack import keras
from tf_simclr.tasks import build, calibration, inputs, pretrain
from tf_simclr.training import Session
from tf_simclr.training.forecast import Costs

MINUTES = {"train_steps": 0, "train_minutes": 3.0}


@pytest.fixture
def eight_steps(monkeypatch, tiny_encoder, no_export):
    """Whatever is measured, 8 steps are chosen; the export is not tried."""
    monkeypatch.setattr(calibration, "_seconds_to_end", lambda *args: 1.0)
    monkeypatch.setattr(calibration, "steps_for", lambda *args: 8)
    monkeypatch.setattr(calibration, "FEWEST", 1)
    monkeypatch.setattr(calibration, "_SHORTEST", 0.0)
    monkeypatch.setattr(calibration, "_SHARE", 0.0)
    monkeypatch.setattr(calibration, "age", lambda: 0.0)


@pytest.fixture
def never_again(monkeypatch):
    """From the call of this function on, nothing may be measured."""
    return lambda: monkeypatch.setattr(
        calibration, "costs_of", lambda *args, **kwargs: pytest.fail("it is measured again")
    )


def variables(workdir, step=8):
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"ckpt-{step}"))
    names = [n for n in reader.get_variable_to_shape_map() if n != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


def assert_same_training(one, other):
    a, b = variables(one), variables(other)
    assert a.keys() == b.keys() and len(a) > 20
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    losses = [[line["loss"] for line in lines(folder)] for folder in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "precision": "mixed_float16",
            "optimizer": "adamw",
            "lineareval_while_pretraining": True,
            "skip_bad_steps": 3,
            "eval_every_epochs": 0.1,
            "steps_per_execution": 2,
        },
    ],
    ids=["plain", "more"],
)
def test_the_training_is_that_of_as_many_steps(settings, tmp_path, eight_steps):
    settings = {**settings, "warmup_epochs": -1.0}
    for name, length in (("minutes", MINUTES), ("steps", {"train_steps": 8})):
        keras.backend.reset_uids()
        run(tmp_path / name, **{**settings, **length})
    assert_same_training(tmp_path / "minutes", tmp_path / "steps")
    (minutes, steps), (one, other) = zip(
        *(
            (
                settings_of_run(str(tmp_path / name)),
                json.loads((tmp_path / name / "checkpoints" / "manifest.json").read_text()),
            )
            for name in ("minutes", "steps")
        )
    )
    assert minutes == {**steps, "train_minutes": 3.0} and steps["train_steps"] == 8
    assert one["encoder"] == other["encoder"]  # The names of layers too.
    assert not (tmp_path / "minutes" / "calibration").exists()


def test_what_is_recorded_is_not_chosen_again(tmp_path, eight_steps, never_again, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    command = ("--mode=pretrain", f"--workdir={tmp_path / 'w'}", "--train_minutes=3")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "train", killed)
        run(tmp_path / "w", **MINUTES)
    assert not (tmp_path / "w" / "checkpoints").exists()
    never_again()
    for given in (command, (*command, "--train_epochs=9"), command[:2]):
        assert parse(*given).train_steps == 8
    original = Session.train

    def stopped_after_four(self, model, plan, source, dataset, **options):
        def log(metrics):
            if metrics["step"] > 4:
                raise KeyboardInterrupt
            return {}

        return original(self, model, plan, source, dataset, **{**options, "show": log})

    recorded = {"train_minutes": 3.0, "train_steps": 8}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "train", stopped_after_four)
        run(tmp_path / "w", **recorded)
    run(tmp_path / "w", **recorded)
    run(tmp_path / "unbroken", train_steps=8)
    assert_same_training(tmp_path / "w", tmp_path / "unbroken")


def test_another_time_is_refused_by_name_and_never_measured(tmp_path, eight_steps, never_again):
    run(tmp_path / "w", **MINUTES)
    never_again()
    with pytest.raises(UserError, match=r"another run: --train_minutes was 3\.0, is 4\.0\. Use"):
        run(tmp_path / "w", train_steps=0, train_minutes=4.0)
    with pytest.raises(UserError, match="decides how long a new run is.*--allow_changes"):
        run(tmp_path / "w", train_steps=0, train_minutes=4.0, allow_changes=True)
    with pytest.raises(UserError, match="decides how long a new run is"):
        run(tmp_path / "w", **MINUTES)


@pytest.mark.parametrize(
    ("given", "minutes", "steps"),
    [
        ([], 3.0, 8),
        (["--train_minutes=3"], 3.0, 8),
        (["--train_minutes=3", "--train_epochs=50"], 3.0, 8),
        (["--train_minutes=4"], 4.0, 0),
        (["--train_minutes=0"], 0.0, 0),
        (["--train_epochs=50"], 0.0, 0),
        (["--train_steps=9"], 3.0, 9),
        (["--train_steps=9", "--train_minutes=4"], 4.0, 9),
    ],
    ids=str,
)
def test_recorded_steps_hold_for_the_time_that_led_to_them(given, minutes, steps, tmp_path):
    recorded = to_flagfile(Config(workdir="w", train_minutes=3.0, train_steps=8))
    (tmp_path / "flags.resolved").write_text(recorded)
    config = parse("--mode=pretrain", f"--workdir={tmp_path}", *given)
    assert (config.train_minutes, config.train_steps) == (minutes, steps)
    # As a flagfile elsewhere, the recorded steps decide.
    other = parse("--workdir=other", f"--flagfile={tmp_path / 'flags.resolved'}")
    assert (other.train_minutes, other.train_steps) == (3.0, 8)


def test_steps_that_are_recorded_without_a_time_give_way_to_one(tmp_path):
    (tmp_path / "flags.resolved").write_text(to_flagfile(Config(workdir="w", train_steps=8)))
    config = parse(f"--workdir={tmp_path}", "--train_minutes=3")
    assert (config.train_minutes, config.train_steps) == (3.0, 0)


def test_given_steps_decide_and_it_is_said(tmp_path, eight_steps, never_again, monkeypatch):
    never_again()
    said = []
    monkeypatch.setattr(logging, "info", lambda message, *args: said.append(message % args))
    run(tmp_path / "w", train_minutes=3.0, train_steps=2)
    assert lines(tmp_path / "w")[-1]["step"] == 2
    wanted = "--train_steps=2 decides how long the run is; --train_minutes=3 is not measured."
    assert wanted in said


def test_a_time_that_is_too_short_is_refused_with_the_figures(tmp_path, tiny_encoder, monkeypatch):
    costs = Costs(step=2.0, start=30.0, end=10.0)
    monkeypatch.setattr(calibration, "costs_of", lambda *args, **kwargs: costs)
    monkeypatch.setattr(calibration, "age", lambda: 60.0)
    # 60 + 30 + 10 * 2 + 10 = 120 s, which are 0.95 of 2.11 minutes.
    with pytest.raises(
        UserError,
        match=r"--train_minutes=2 is too short: 10 steps take 20 seconds, and starting, saving and "
        r"exporting take about 1 minute 40 seconds. Pass at least --train_minutes=2.2.",
    ):
        run(tmp_path / "w", train_steps=0, train_minutes=2.0)
    assert not (tmp_path / "w" / "flags.resolved").exists()


def test_the_number_of_steps_by_hand():
    config = Config(workdir="w", train_minutes=10.0, **{**SMALL, "train_steps": 0})
    plan = calibration.open_plan(config, inputs.source_of(config, "train"), 1)
    costs = Costs(step=0.5, start=20.0, save=1.0, end=15.0)
    # 570 s less 100 for what has passed leave 470; a checkpoint every 4 steps: 435 s for steps of
    # 0.75 s, which are 580, and the 145 checkpoints.
    assert calibration.steps_for(config, costs, plan, 100.0) == 580


def test_parts_of_a_run_are_measured_and_nothing_is_left(tmp_path, tiny_encoder, monkeypatch):
    """All that a run does is tried once, the export in the asked formats included."""
    monkeypatch.setattr(calibration, "age", lambda: 0.0)
    monkeypatch.setattr(calibration, "_SHORTEST", 0.0)
    monkeypatch.setattr(calibration, "_SHARE", 0.0)
    found = []
    measure = calibration.costs_of

    def refused_afterwards(*args, **kwargs):
        found.append(measure(*args, **kwargs))
        assert (tmp_path / "w" / "calibration" / "encoder" / "encoder.keras").exists()
        raise UserError("that is all")

    monkeypatch.setattr(calibration, "costs_of", refused_afterwards)
    with pytest.raises(UserError, match="that is all"):
        run(tmp_path / "w", **MINUTES, eval_every_epochs=1, export_formats="keras")
    (costs,) = found
    assert all(
        value > 0
        for value in (costs.step, costs.start, costs.log, costs.save, costs.evaluation, costs.end)
    )
    assert costs.first_evaluation >= costs.evaluation
    assert not list(tmp_path.iterdir())


def test_fine_tuning_takes_no_time(tmp_path):
    with pytest.raises(UserError, match="--mode=finetune takes --train_minutes=0.0 only"):
        Config(mode="finetune", workdir="w", init_from="x", train_minutes=3.0)


def test_the_settings_with_chosen_steps_are_the_run_s(tmp_path, eight_steps):
    """What is calibrated is not what is trained: the plan follows the chosen steps."""
    plans = []
    original = pretrain.build.simclr_of

    def seen(config, channels, plan, classes):
        plans.append(plan)
        return original(config, channels, plan, classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "simclr_of", seen)
        run(tmp_path / "w", **MINUTES, warmup_epochs=-1.0)
    assert [plan.total_steps for plan in plans[1:]] == [8] and plans[0].total_steps > 1e9
    assert plans[1].warmup_steps == 0  # A tenth of 8.
    text = (tmp_path / "w" / "flags.resolved").read_text()
    assert from_flagfile(text)["train_minutes"] == 3.0 and "--train_steps=8\n" in text
