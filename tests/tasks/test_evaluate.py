"""The evaluation modes: they keep features, run any evaluator, and use the strategy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.command_line import parse
from tests.features import small_encoder
from tests.replicas import mirrored
from tf_simclr import distribute, features, tasks
from tf_simclr.config import Config
from tf_simclr.evaluation.evaluators import Evaluator
from tf_simclr.flagfile import to_flagfile
from tf_simclr.modes import MODES
from tf_simclr.tasks import evaluate, inputs
from tf_simclr.workdir import read_results

SMALL = {"dataset": "digits", "image_size": 8, "train_split": "train[:90]", "eval_split": "test"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    tf.keras.utils.set_random_seed(1)  # 0 would give the modes' random encoder.
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    model = small_encoder()
    model.save(path)
    return str(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(evaluate, "write_report", lambda _: None)


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


def run(workdir, encoder, mode="knn_eval", strategy=None, **settings):
    settings = {"label_draws": 1, "l2_sweep": 1, "knn_k": 3, **SMALL, **settings}
    config = Config(mode=mode, workdir=str(workdir), init_from=encoder, **settings)
    tasks.run(config, strategy or tf.distribute.OneDeviceStrategy("/cpu:0"))
    return read_results(str(workdir))[mode]


def test_both_modes_share_features_that_are_computed_once(encoder, tmp_path, computed):
    first = run(tmp_path, encoder)
    assert sum(computed) == 2 * (90 + 500)  # The trained encoder and the random one.
    run(tmp_path, encoder, mode="linear_eval")
    assert run(tmp_path, encoder) == first and sum(computed) == 2 * (90 + 500)
    run(tmp_path, encoder, train_split="train[:50]")  # The test split is kept.
    assert sum(computed) == 2 * (90 + 500 + 50)


def test_features_are_computed_under_the_strategy(encoder, tmp_path, monkeypatch):
    one = run(tmp_path / "one", encoder)
    used = []
    strategy = mirrored(2)
    original = strategy.run
    monkeypatch.setattr(strategy, "run", lambda *a, **k: used.append(1) or original(*a, **k))
    assert run(tmp_path / "two", encoder, strategy=strategy) == one and used
    files = [sorted((tmp_path / name).rglob("part-*.npy")) for name in ("one", "two")]
    assert len(files[0]) == 4
    for a, b in zip(*files):
        assert a.relative_to(tmp_path / "one") == b.relative_to(tmp_path / "two")
        assert a.read_bytes() == b.read_bytes()


def test_the_modes_use_all_devices_of_this_host(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    for name in ("auto", "multi_worker"):
        strategy = distribute.make_strategy(name, this_host_only=True)
        assert type(strategy) is tf.distribute.MirroredStrategy  # On the tests' virtual CPUs.
        assert strategy.num_replicas_in_sync == 4
    strategy = distribute.make_strategy("one_device", this_host_only=True)
    assert strategy.num_replicas_in_sync == 1


@dataclasses.dataclass(frozen=True)
class Spread(Evaluator):
    """A toy evaluator: the distance of features from their mean."""

    scale: float
    name = "spread"

    def evaluate(self, train, test):
        return {"std": self.scale * float(np.std(test.h, axis=0).mean())}


def test_another_evaluator_is_a_class_and_a_row(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(evaluate.EVALUATORS, "knn_eval", lambda config: Spread(config.knn_k))
    config = Config(mode="knn_eval", workdir=str(tmp_path), init_from=encoder, knn_k=3, **SMALL)
    evaluate.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))
    found = read_results(str(tmp_path))["knn_eval"]["features"]
    assert set(found) == {"trained encoder", "random encoder", "raw pixels"}
    value = found["raw pixels"]["std"]
    assert value > 0 and f"  raw pixels       std {value:.4g}\n" in capsys.readouterr().out


def test_another_data_set_to_evaluate_on(encoder, tmp_path):
    png = tf.io.encode_png(np.zeros([8, 8, 1], np.uint8)).numpy()
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            (tmp_path / "photos" / split / name / "0.png").write_bytes(png)
    settings = {"train_split": "train", "channels": 1, "eval_dataset": str(tmp_path / "photos")}
    assert run(tmp_path / "w", encoder, **settings, baselines=False)["k"] == 2  # All images.


@pytest.mark.parametrize(
    ("settings", "dataset", "data_dir"),
    [
        ({}, "digits", "d"),
        ({"eval_dataset": "/photos"}, "folder", "/photos"),
        ({"eval_dataset": "folder", "eval_data_dir": "/photos"}, "folder", "/photos"),
        ({"eval_dataset": "cifar10", "dataset": "cifar100"}, "cifar10", "d"),
        ({"eval_dataset": "cifar10", "dataset": "folder"}, "cifar10", ""),
        ({"eval_dataset": "cifar10", "eval_data_dir": "e"}, "cifar10", "e"),
    ],
)
def test_what_is_evaluated_on(settings, dataset, data_dir):
    config = inputs.evaluated_on(Config(workdir="w", data_dir="d", **settings))
    assert (config.dataset, config.data_dir) == (dataset, data_dir)


def test_a_place_without_a_data_set_is_refused():
    with pytest.raises(ValueError, match="--eval_data_dir=e is where --eval_dataset lies"):
        Config(workdir="w", eval_data_dir="e")
    with pytest.raises(ValueError, match="--eval_dataset=folder needs --eval_data_dir"):
        Config(workdir="w", eval_dataset="folder")


@pytest.mark.parametrize(
    ("arguments", "eval_dataset", "eval_data_dir"),
    [
        ([], "folder", "/photos"),
        (["--dataset=cifar10"], "", ""),
        (["--eval_dataset=cifar10"], "cifar10", ""),
        (["--eval_dataset=/other"], "folder", "/other"),
        (["--eval_dataset="], "", ""),
    ],
)
def test_the_modes_evaluate_where_the_run_did(arguments, eval_dataset, eval_data_dir, tmp_path):
    saved = Config(workdir="w", eval_dataset="/photos", eval_every_epochs=2.0, eval_max_images=9)
    (tmp_path / "flags.resolved").write_text(to_flagfile(saved))
    (tmp_path / "photos").mkdir()
    config = parse("--mode=knn_eval", f"--workdir={tmp_path}", *arguments)
    assert (config.eval_dataset, config.eval_data_dir) == (eval_dataset, eval_data_dir)
    again = parse("--mode=pretrain", f"--workdir={tmp_path}")
    assert (again.eval_every_epochs, again.eval_max_images) == (2.0, 9)


@pytest.mark.parametrize("mode", evaluate.EVALUATORS)
def test_a_mode_that_evaluates_takes_the_images_of_the_run(mode):
    assert {"Data", "Model"} <= set(MODES[mode].inherits)
