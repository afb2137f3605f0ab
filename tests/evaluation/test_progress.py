"""Long work logs its progress, short work nothing."""

from __future__ import annotations

from absl import logging

from tf_simclr.evaluation import progress


def test_reported_yields_everything_and_says_the_time_left(monkeypatch):
    clock = iter(range(0, 1000, 4))  # 4 seconds per item.
    said = []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(logging, "info", lambda message, *args: said.append(message % args))
    assert list(progress.reported("abcdefg", 7, "letters")) == list("abcdefg")
    assert said == ["letters: 2 of 7, 30 s left", "letters: 5 of 7, 10 s left"]


def test_short_work_is_silent(monkeypatch):
    monkeypatch.setattr(logging, "info", None)
    assert list(progress.reported(range(3), 3, "numbers")) == [0, 1, 2]
    assert list(progress.reported([], 0, "nothing")) == []
