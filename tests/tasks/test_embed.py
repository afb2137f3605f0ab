"""The modes embed and search: their settings, and a table from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.command_line import parse
from tests.features import small_encoder
from tf_simclr import features, tasks
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import FIELDS, Config
from tf_simclr.data.sources import open_source
from tf_simclr.embeddings import FORMATS, open_table
from tf_simclr.errors import UserError
from tf_simclr.export.keras_file import save_h5
from tf_simclr.search import BACKENDS


def run(*arguments):
    tasks.run(parse(*arguments), tf.distribute.OneDeviceStrategy("/cpu:0"))


@pytest.mark.parametrize("shard", ["3/2", "0/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "1 /2"])
def test_a_shard_that_cannot_be_is_refused(shard):
    with pytest.raises(UserError, match="--shard is i/n"):
        Config(mode="embed", workdir="w", shard=shard)


def test_shards_are_counted_from_one():
    assert Config(mode="embed", workdir="w", shard="2/3").shard_of() == (2, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "embed"}, "needs --init_from or --workdir"),
        ({"mode": "embed", "init_from": "e.keras"}, "needs --table or --workdir"),
        ({"mode": "search", "workdir": "w"}, "needs --query"),
        ({"mode": "search", "query": "q"}, "needs --table or --workdir"),
    ],
)
def test_what_is_missing_is_named(settings, said):
    with pytest.raises(UserError, match=said):
        Config(**settings)


def test_the_flags_name_what_there_is():
    assert FIELDS["table_format"].metadata["choices"] == tuple(FORMATS)
    assert FIELDS["search_backend"].metadata["choices"] == ("auto", *BACKENDS)


def test_embeds_and_searches_with_an_h5_file(tmp_path, capsys):
    tf.keras.utils.set_random_seed(1)
    path = str(tmp_path / "encoder.h5")
    save_h5(small_encoder(), path)
    workdir = f"--workdir={tmp_path / 'run'}"
    data = ("--dataset=digits", "--train_split=test[:20]", "--image_size=8", "--table_format=npy")
    run("--mode=embed", f"--init_from={path}", workdir, *data)
    table = tmp_path / "run" / "embeddings"
    assert capsys.readouterr().out == f"{table}\n"
    found = open_table(str(table))
    source = open_source("digits", split="test[:20]")
    h = features.represent(load_encoder_from(path), source, image_size=8, batch_size=20)
    rows = next(found.parts())[1]
    np.testing.assert_allclose(rows.h, h, rtol=1e-5, atol=1e-6)
    assert list(rows.label_names) == [str(label) for label in source.labels]

    run("--mode=search", workdir, f"--query={source.describe(3)}", "--neighbors=2")
    said = capsys.readouterr().out.splitlines()
    answer = json.loads((tmp_path / "run" / "embeddings.search" / "nearest.json").read_text())
    matches = answer["queries"][0]["matches"]
    assert [match["row"] for match in matches] != [3, 3] and len(said) == 1 + len(matches) == 3
    unit = h.astype(np.float64) / np.linalg.norm(h.astype(np.float64), axis=1, keepdims=True)
    order = [row for row in np.argsort(-unit @ unit[3], kind="stable") if row != 3]
    assert [match["row"] for match in matches] == order[:2]


def test_an_h5_file_that_could_run_code_is_refused(tmp_path):
    model = tf.keras.Sequential([tf.keras.Input([8, 8, 1]), tf.keras.layers.Lambda(lambda x: x)])
    path = tmp_path / "encoder.h5"
    model.save(path, save_format="h5", include_optimizer=False)
    with pytest.raises(UserError, match="Lambda"):
        load_encoder_from(path)
