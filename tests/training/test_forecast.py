"""How many steps fit into a time: sums by hand, and the bounds of the promise."""

from __future__ import annotations

import time

import pytest

from tf_simclr.training import Plan, forecast
from tf_simclr.training.forecast import Costs, clock_after, in_words, steps_within


def plan(log=20, checkpoint=100, evaluation=0):
    return Plan(100, 1, 0, checkpoint, log, 0.1, eval_steps=evaluation)


@pytest.mark.parametrize(
    ("costs", "steps", "seconds"),
    [
        (Costs(step=2.0), 7, 14.0),
        (Costs(step=2.0, start=5.0, end=3.0), 7, 22.0),
        (Costs(step=1.0, log=0.5), 40, 41.0),  # Two lines.
        (Costs(step=1.0, log=0.5), 41, 42.5),  # And one after the last step.
        (Costs(step=1.0, save=10.0), 99, 109.0),
        (Costs(step=1.0, save=10.0), 100, 110.0),
        (Costs(step=1.0, save=10.0), 101, 121.0),
        (Costs(step=1.0, first_evaluation=9.0, evaluation=4.0), 30, 39.0),
        (Costs(step=1.0, first_evaluation=9.0, evaluation=4.0), 90, 90 + 9.0 + 4.0),
    ],
)
def test_a_run_takes_the_sum_of_its_parts(costs, steps, seconds):
    assert costs.of_run(steps, plan(evaluation=50)) == pytest.approx(seconds)


@pytest.mark.parametrize("seconds", [0.0, 5.0, 61.0, 100.0, 109.9, 110.0, 3600.0, 1e6])
@pytest.mark.parametrize(
    "costs",
    [
        Costs(step=1.0),
        Costs(step=0.013, start=20.0, log=0.01, save=0.8, end=12.0),
        Costs(step=30.0, start=60.0, save=5.0, first_evaluation=40.0, evaluation=20.0),
    ],
)
def test_the_most_steps_that_fit(costs, seconds):
    steps = steps_within(seconds, costs, plan(evaluation=50))
    assert steps == 0 or costs.of_run(steps, plan(evaluation=50)) <= seconds
    assert costs.of_run(steps + 1, plan(evaluation=50)) > seconds


def test_without_evaluations_and_with_saving_by_hand():
    # 1 s of start, 2 s of end, 10 steps of 1 s, and a checkpoint of 4 s after the last: 17 s.
    costs = Costs(step=1.0, start=1.0, save=4.0, end=2.0)
    assert steps_within(17.0, costs, plan(checkpoint=10)) == 10
    assert steps_within(21.9, costs, plan(checkpoint=10)) == 10  # The next would save again.
    assert steps_within(22.0, costs, plan(checkpoint=10)) == 11
    assert steps_within(7.9, costs, plan(checkpoint=10)) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.15327, "0.15 seconds"),
        (1.0, "1 second"),
        (9.6, "10 seconds"),
        (12.4, "12 seconds"),
        (60, "1 minute"),
        (61, "1 minute 1 second"),
        (3599.7, "1 hour"),
        (51030, "14 hours 10 minutes"),
        (51031, "14 hours 11 minutes"),
        (86400, "1 day"),
        (300000, "3 days 11 hours"),
        (0, "0 seconds"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_time_of_the_end_has_a_date_on_another_day(monkeypatch):
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
    monkeypatch.setattr(forecast.time, "time", lambda: noon)
    assert clock_after(3 * 3600 + 42 * 60) == "15:42"
    assert clock_after(13 * 3600) == "2026-03-02 01:00"
