"""Test session set-up: four virtual CPUs (replicas) and fixed seeds, before TensorFlow starts."""

from __future__ import annotations

import gc
import os
from unittest import mock

import tf_simclr  # noqa: F401  Before TensorFlow, so that `tf.keras` is the package's Keras.

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

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
    """Excludes the objects of imported modules from garbage collection, which is made rarer.

    TensorFlow's graphs leave millions of objects, which each full collection visits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(autouse=True, scope="module")
def _tensorflow_seeded():
    """Once a module: it makes TensorFlow optimise every traced function again, up to a second."""
    tf.random.set_seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    """Seeds Python, NumPy and Keras, from which layers draw their weights."""
    with mock.patch.object(tf.compat.v2.random, "set_seed") as left_out:
        tf.keras.utils.set_random_seed(0)
    left_out.assert_called_once_with(0)


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
    """Training runs of a test end without export and report, which take seconds."""
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
