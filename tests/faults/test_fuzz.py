"""Thousands of wrong inputs: each ends in success or one clear message, with nothing lost.

`python tests/faults/fuzz.py --seed=N` replays one.
"""

from __future__ import annotations

import pytest

from tests.faults.fuzz import KINDS, WHEEL, kind_of, make_input, run_input
from tests.faults.harness import snapshot

FEW = 500  # Inputs of all kinds: under a minute.
MANY = 10_000
_SHOWN = 5


def check(kind, first, last):
    faults = {}
    for seed in range(first, last):
        if kind_of(seed) == kind:
            fault = run_input(seed).fault
            if fault:
                faults[seed] = fault
    seeds = ", ".join(map(str, list(faults)[:50]))
    details = "\n\n".join(f"seed {s}: {f[-1500:]}" for s, f in list(faults.items())[:_SHOWN])
    assert not faults, (
        f"{len(faults)} faults; python tests/faults/fuzz.py --seed=N for N in {seeds}\n{details}"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_few(kind):
    check(kind, 0, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many(kind):
    check(kind, FEW, FEW + MANY)


@pytest.mark.parametrize("seed", range(len(WHEEL)))
def test_a_seed_makes_one_input(seed, tmp_path):
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        make_input(seed, str(tmp_path / name))
        made.append(snapshot(str(tmp_path / name)))
    assert made[0] == made[1]
