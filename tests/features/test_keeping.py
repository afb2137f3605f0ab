"""Features on disk: computed once, resumed exactly, and never confused with others."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.features import small_encoder
from tests.replicas import mirrored
from tf_simclr import features
from tf_simclr.data.sources import array_source, open_source
from tf_simclr.errors import UserError
from tf_simclr.features import keeping
from tf_simclr.models.batch_norm import plain_copy

N, SIZE, ROWS = 23, 8, 6  # Four parts, the last of five rows.


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, [N, SIZE, SIZE, 1], np.uint8)


SOURCE = array_source(images(), np.arange(N) % 3, ["a", "b", "c"])


@pytest.fixture(scope="module")
def encoder():
    tf.keras.utils.set_random_seed(3)
    return small_encoder()


@pytest.fixture
def computed(monkeypatch):
    """The number of images in every batch that an encoder was called on."""
    calls = []
    original = features.Computer.__call__

    def counting(self, batches):
        for h in original(self, batches):
            calls.append(len(h))
            yield h

    monkeypatch.setattr(features.Computer, "__call__", counting)
    return calls


def keep(encoder, folder, source=SOURCE, **options):
    options = {"image_size": SIZE, "batch_size": 4, "rows_per_part": ROWS, **options}
    return features.keep(encoder, source, str(folder), **options)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


def test_parts_hold_everything_in_order(encoder, tmp_path):
    kept = keep(encoder, tmp_path)
    expected = features.represent(encoder, SOURCE, image_size=SIZE, batch_size=3)
    np.testing.assert_array_equal(kept.array(), expected)
    for found in (kept, features.read(kept.folder)):
        parts = list(found.parts())
        assert [part.start for part in parts] == [0, 6, 12, 18]
        assert [part.h.shape for part in parts] == [(6, 12)] * 3 + [(5, 12)]
        assert all(isinstance(part.h, np.memmap) for part in parts)
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), SOURCE.labels)
        names = [name for part in parts for name in part.names]
        assert names == [SOURCE.describe(i) for i in range(N)]
    facts = json.loads((pathlib.Path(kept.folder) / "facts.json").read_text())
    assert (facts["N"], facts["D"], facts["image_size"], facts["rows_per_part"]) == (23, 12, 8, 6)
    assert facts["source"] == SOURCE.fingerprint and facts["class_names"] == ["a", "b", "c"]
    assert pathlib.Path(kept.folder).parent.name == features.encoder_fingerprint(encoder)


def test_computed_once(encoder, tmp_path, computed):
    first = keep(encoder, tmp_path)
    assert sum(computed) == N
    again = keep(encoder, tmp_path)
    assert sum(computed) == N and again == first


@pytest.mark.parametrize("done", [0, 1, 3])
@pytest.mark.parametrize("place", ["computing", "writing"])
def test_interrupted_and_resumed_is_unbroken(done, place, encoder, tmp_path, computed, monkeypatch):
    whole = keep(encoder, tmp_path / "whole")
    computed.clear()

    class Killed(BaseException):
        pass

    number = 0
    original = keeping._compute_part if place == "computing" else keeping.storage.write_whole

    def killed(*args):
        nonlocal number
        if place == "computing" or args[0].endswith(".json") and "part-" in args[0]:
            number += 1
        if number > done:
            raise Killed  # If "writing": after the .npy, before the .json.
        return original(*args)

    with monkeypatch.context() as patch:
        name = "_compute_part" if place == "computing" else "write_whole"
        patch.setattr(keeping if place == "computing" else keeping.storage, name, killed)
        with pytest.raises(Killed):
            keep(encoder, tmp_path / "broken")
    computed.clear()
    kept = keep(encoder, tmp_path / "broken")
    assert sum(computed) == N - done * ROWS
    assert contents(kept.folder) == contents(whole.folder)


def test_replicas_change_no_bit(encoder, tmp_path):
    one = keep(encoder, tmp_path / "one")
    strategy = mirrored(2)
    with strategy.scope():
        copy = plain_copy(encoder)
    two = keep(copy, tmp_path / "two", strategy=strategy)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one.facts == two.facts


@pytest.mark.parametrize(
    "other",
    [
        {"source": array_source(images(1), np.arange(N) % 3, ["a", "b", "c"])},
        {"source": array_source(images(), np.arange(N) % 2, ["a", "b", "c"])},
        {"source": array_source(images(), np.arange(N) % 3, ["a", "b", "d"])},
        {"source": array_source(images())},
        {"source": array_source(images(), np.arange(N) % 3, ["a", "b", "c"], split="test")},
        {"image_size": 16},
    ],
)
def test_other_images_are_not_mistaken(other, encoder, tmp_path, computed):
    first = keep(encoder, tmp_path)
    before = contents(first.folder)
    computed.clear()
    second = keep(encoder, tmp_path, **other)
    assert sum(computed) == N and second.folder != first.folder
    assert contents(first.folder) == before


def test_folders_with_the_same_names_and_sizes_are_not_mistaken(encoder, tmp_path, computed):
    for name, grey in (("one", 100), ("two", 200)):
        (tmp_path / name).mkdir()
        image = tf.fill([4, 4, 1], tf.constant(grey, tf.uint8))
        (tmp_path / name / "x.png").write_bytes(tf.io.encode_png(image).numpy().ljust(200, b"\0"))
    one, two = (open_source("folder", str(tmp_path / n), channels=1) for n in ("one", "two"))
    assert one.fingerprint == two.fingerprint  # Otherwise this would test nothing.
    first, second = (keep(encoder, tmp_path / "f", source=s) for s in (one, two))
    assert first.folder != second.folder and sum(computed) == 2


def test_other_weights_and_other_architectures_are_told_apart(encoder):
    copy = plain_copy(encoder)
    fingerprint = features.encoder_fingerprint(encoder)
    assert features.encoder_fingerprint(copy) == fingerprint
    weights = copy.get_weights()
    weights[-1] = np.nextafter(weights[-1], np.float32(9))  # The moving variance of the last layer.
    copy.set_weights(weights)
    assert features.encoder_fingerprint(copy) != fingerprint
    config = encoder.get_config()
    config["layers"][-1]["config"]["trainable"] = False
    altered = type(encoder).from_config(config)
    altered.set_weights(encoder.get_weights())
    assert features.encoder_fingerprint(altered) != fingerprint


DAMAGE = {
    "a byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["part-00001.npy", "part-00001.json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_part_is_computed_again_or_refused(
    name, how, encoder, tmp_path, computed, caplog
):
    kept = keep(encoder, tmp_path)
    before = contents(kept.folder)
    DAMAGE[how](pathlib.Path(kept.folder) / name)
    with pytest.raises(UserError, match=r"cannot be used: .*part-00001\."):
        features.read(kept.folder)
    computed.clear()
    keep(encoder, tmp_path)
    assert sum(computed) == ROWS and contents(kept.folder) == before
    said = "part-00001" in caplog.text and "computing it again" in caplog.text
    assert said == ((name, how) != ("part-00001.json", "gone"))  # As after an interruption.


@pytest.mark.parametrize("change", [{"D": 8}, {"encoder": "x"}, {"format": 0}, None])
def test_foreign_facts_are_not_believed(change, encoder, tmp_path, computed, caplog):
    kept = keep(encoder, tmp_path)
    before = contents(kept.folder)
    path = pathlib.Path(kept.folder) / "facts.json"
    path.write_text("{" if change is None else json.dumps({**kept.facts, **change}))
    computed.clear()
    keep(encoder, tmp_path)
    assert sum(computed) == N and contents(kept.folder) == before
    assert "does not hold the features expected; computing them again" in caplog.text


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no features of this version"):
        features.read(str(tmp_path))


def test_others_are_mentioned_and_stay(encoder, tmp_path, caplog):
    logging.set_verbosity(logging.INFO)
    kept = keep(encoder, tmp_path)
    fingerprint = kept.facts["encoder"]
    features.mention_others(str(tmp_path), {fingerprint})
    features.mention_others(str(tmp_path / "nowhere"), set())
    assert not caplog.records
    features.mention_others(str(tmp_path), {"another"})
    assert "features of 1 other encoder(s), 0.0 MiB" in caplog.text
    assert (tmp_path / fingerprint).exists()
