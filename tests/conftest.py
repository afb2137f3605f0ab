"""Test session set-up: four virtual CPUs (replicas) and fixed seeds, before TensorFlow starts."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf
from absl import logging

from tests import small_runs

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration() for _ in range(4)],
)


@pytest.fixture(autouse=True)
def _seeded():
    tf.keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _verbosity():
    """Restores the log level after each test."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory):
    """The workdir of a small pretraining run, shared by all tests; copy it before changing it."""
    tf.keras.utils.set_random_seed(0)
    workdir = tmp_path_factory.mktemp("shared") / "pretrained"
    small_runs.run(workdir)
    before = small_runs.digests(workdir)
    yield workdir
    assert small_runs.digests(workdir) == before, "a test changed the shared run"
