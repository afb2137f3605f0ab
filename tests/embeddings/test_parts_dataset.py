"""The batches of a table's parts: the evaluation views, in order, and no batch of two parts."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.data.in_order import eval_dataset, parts_dataset
from tf_simclr.data.sources import array_source, open_source

N = 11


@pytest.fixture(scope="module", params=["array", "files"])
def source(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [N, 20, 30, 3], np.uint8)
    if request.param == "array":
        return array_source(images)
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(images):
        (folder / f"{i:02d}.png").write_bytes(tf.io.encode_png(image[: 10 + i]).numpy())
    return open_source("folder", str(folder))


@pytest.mark.parametrize("size", [16, 40])
def test_batches_are_those_of_the_evaluation(size, source):
    views = np.concatenate(list(eval_dataset(source, batch_size=N, image_size=size)))
    dataset = parts_dataset(source, [0, 2], rows_per_part=4, batch_size=3, image_size=size)
    found = list(dataset.as_numpy_iterator())
    assert [index.tolist() for index, _, _ in found] == [[0, 1, 2], [3], [8, 9, 10]]
    for index, sizes, images in found:
        assert (index.dtype, sizes.dtype, images.dtype) == (np.int64, np.int32, np.float32)
        np.testing.assert_allclose(images, views[index], atol=1e-6)
        np.testing.assert_array_equal(sizes, source.store.sizes(index))
