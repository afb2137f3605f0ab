"""Test session set-up: four virtual CPUs (replicas) and fixed seeds, before TensorFlow starts."""

from __future__ import annotations

import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if sys.version_info >= (3, 12):
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # So that `tf.keras` in tests is the package's Keras.

import pytest
import tensorflow as tf
from absl import logging

from tests import small_runs
from tf_simclr.tasks import build
from tf_simclr.training import Session

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration() for _ in range(4)],
)


def pytest_collection_finish():
    """Leaves what TensorFlow and the tests made on import out of garbage collection.

    There are millions of such objects, and a full collection visits all others: the collections
    took a fifteenth of the suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(autouse=True)
def _seeded():
    tf.keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _verbosity():
    """Restores the log level after each test."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture
def tiny_encoder(monkeypatch):
    """Small runs of a test train a tiny encoder."""
    monkeypatch.setattr(build, "encoder_of", small_runs.tiny_encoder)


@pytest.fixture
def no_export(monkeypatch):
    """Training runs of a test neither export their encoder nor write a report: takes seconds."""
    monkeypatch.setattr(Session, "hand_over", lambda *args, **kwargs: None)


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory):
    """The workdir of a small pretraining run, shared by all tests; copy it before changing it."""
    tf.keras.utils.set_random_seed(0)
    workdir = tmp_path_factory.mktemp("shared") / "pretrained"
    small_runs.run(workdir)
    before = small_runs.digests(workdir)
    yield workdir
    assert small_runs.digests(workdir) == before, "a test changed the shared run"
