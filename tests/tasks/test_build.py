"""How settings affect the data."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.tasks import inputs


@pytest.mark.parametrize(
    ("settings", "held"),
    [({}, True), ({"cache": "off"}, False), ({"data_service": "grpc://127.0.0.1:1"}, False)],
    ids=str,
)
def test_images_are_held_in_memory_for_training(settings, held, tmp_path):
    for index in range(3):
        image = np.full([4 + index, 5, 3], index, np.uint8)
        (tmp_path / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    config = Config(workdir="w", dataset="folder", data_dir=str(tmp_path), **settings)
    source = inputs.source_of(config, "train")
    assert (inputs.for_training(config, source).store.nbytes > 0) == held


def test_images_are_held_at_the_size_asked_for(tmp_path):
    (tmp_path / "0.png").write_bytes(tf.io.encode_png(np.zeros([8, 12, 3], np.uint8)).numpy())
    config = Config(workdir="w", dataset="folder", data_dir=str(tmp_path), cache_side=4)
    source = inputs.for_training(config, inputs.source_of(config, "train"))
    assert source.load(tf.constant(0, tf.int64)).shape == [4, 6, 3]


@pytest.mark.parametrize("settings", [{"cache": "off"}, {"data_service": "grpc://a:1"}], ids=str)
def test_what_is_not_held_cannot_be_reduced(settings):
    with pytest.raises(UserError, match="--cache_side=4 .* --cache=off or --data_service"):
        Config(workdir="w", cache_side=4, **settings)
    Config(workdir="w", mode="knn_eval", cache_side=4, **settings)  # Inherited, without effect.
