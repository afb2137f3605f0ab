"""The pipeline with the `tf.data` service: a dispatcher and two workers on this host."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import array_source, open_source
from tf_simclr.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def service():
    """(address, workers). The workers stop when they are no longer referenced."""
    of = tf.data.experimental.service
    dispatcher = of.DispatchServer(of.DispatcherConfig(port=0))
    address = dispatcher.target.split("://")[1]
    workers = [
        of.WorkerServer(of.WorkerConfig(address, port=0, heartbeat_interval_ms=100))
        for _ in range(2)
    ]
    yield dispatcher.target, workers
    for worker in workers:
        worker._stop()
    dispatcher._stop()


def folder_of_images(folder):
    for i in range(12):
        picture = Image.fromarray(RNG.integers(0, 256, [20 + i, 30, 3], np.uint8))
        picture.save(folder / f"{i}.png")
    return open_source("folder", str(folder))


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_workers_make_the_same_batches_each_once(kind, service, tmp_path):
    address, workers = service
    if kind == "memory":
        source = array_source(RNG.integers(0, 256, [12, 8, 8, 3], np.uint8))
    else:
        source = folder_of_images(tmp_path)
    options = {"batch_size": 4, "image_size": 8, "seed": 1, "start_step": 5}
    before = [worker._num_tasks() for worker in workers]
    served = two_view_dataset(source, data_service=address, **options)
    here = two_view_dataset(source, **options)
    assert served.element_spec == here.element_spec

    iterator = iter(served)
    got = [next(iterator) for _ in range(8)]
    assert all(worker._num_tasks() > tasks for worker, tasks in zip(workers, before))
    expected = list(here.take(32))  # More than needed, as one worker may be ahead of the other.
    steps = []
    for batch in got:
        matching = [
            step
            for step, other in enumerate(expected)
            if np.array_equal(batch["hue"], other["hue"])
        ]
        assert len(matching) == 1
        for name, value in expected[matching[0]].items():
            np.testing.assert_array_equal(batch[name], value, err_msg=name)
        steps += matching
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize("address", ["10.0.0.5:5050", "grpc://10.0.0.5", "grpc://a b", "here"])
def test_an_address_of_another_form_is_named(address):
    source = array_source(np.zeros([4, 8, 8, 3], np.uint8))
    with pytest.raises(UserError, match="data_service must be the dispatcher's address"):
        two_view_dataset(source, batch_size=2, image_size=8, data_service=address)
