"""Which hosts a run is on, by its environment."""

from __future__ import annotations

import json

import pytest

from tf_simclr import distribute
from tf_simclr.errors import UserError


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def slurm(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


@pytest.mark.parametrize(
    ("rank", "name"), [(0, "n9:"), (2, "n10:"), (3, "n10:"), (4, "gpu1:")], ids=str
)
def test_slurm_hosts_are_in_the_order_of_its_ranks(rank, name, monkeypatch):
    slurm(monkeypatch, PROCID=rank, STEP_NUM_TASKS=5, JOB_ID=12345)
    slurm(monkeypatch, STEP_NODELIST="n[9-10],gpu1", STEP_TASKS_PER_NODE="2(x2),1")
    names, own = distribute._resolver_place(distribute._resolver())
    assert own == rank and len(set(names)) == 5
    port = 20_000 + 8 * 345 + rank % 2
    assert names[rank] == f"worker {rank} ({name}{port})"
    assert distribute.first_task() == (rank == 0)
    assert distribute._choose(None) == "multi_worker"


def test_one_slurm_task_is_no_cluster(monkeypatch):
    slurm(monkeypatch, PROCID=0, STEP_NUM_TASKS=1)
    assert distribute.first_task() and distribute._choose(None) != "multi_worker"


def test_the_chief_is_first(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "evaluator": ["d:1"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    names, own = distribute._resolver_place(distribute._resolver())
    assert names == ["chief 0 (a:1)", "worker 0 (b:1)", "worker 1 (c:1)"] and own == 2
    assert not distribute.first_task()


@pytest.mark.parametrize(
    "config",
    [
        "",
        "no json",
        "[]",
        '{"cluster": {}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 3}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
    ],
)
def test_no_cluster_is_told(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match="names no cluster that this host is in.*Set TF_CONFIG"):
        distribute.make_strategy("multi_worker")
