"""Every flagfile parses, says what it is, and runs one step."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.command_line import parse
from tf_simclr import tasks
from tf_simclr.data import sources
from tf_simclr.models import resnet
from tf_simclr.workdir import read_results

ROOT = pathlib.Path(__file__).parents[1]
FLAGFILES = sorted((ROOT / "flags").glob("*.flags"))
# With `shallow`, makes any recipe small enough for a test; all else stays as in the recipe.
SHRUNK = """
--image_size=32
--train_batch_size=4
--train_steps=1
--warmup_epochs=0
--checkpoint_steps=1
--labels_per_class=1
--label_draws=1
--l2_sweep=2
--strategy=one_device
--nolineareval_while_pretraining
"""
NARROW = "--width_multiplier=0.125"  # The other modes take the width of the encoder.


@pytest.fixture
def small_data(monkeypatch):
    """Stands in for the recipe's data set: a few labelled images of the same kind."""
    images = np.random.default_rng(0).integers(0, 256, [24, 36, 36, 3], np.uint8)

    def open_small(name, data_dir=None, split="train", **_):
        if name == "digits":
            return sources.open_source(name, split=split)
        return sources.array_source(images, labels=np.arange(24) % 2, name=name)

    monkeypatch.setattr("tf_simclr.tasks.inputs.open_source", open_small)


@pytest.fixture(scope="module")
def shallow():
    """Gives every ResNet one block per group, as tracing the others takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for depth, (bottleneck, _) in resnet.BLOCKS.items():
            patch.setitem(resnet.BLOCKS, depth, (bottleneck, (1, 1, 1, 1)))
        yield


@pytest.fixture(scope="module")
def pretrained(shallow, tmp_path_factory):
    """An encoder for the recipes that start from one."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "shrunk.flags").write_text(SHRUNK)
    images = np.random.default_rng(0).integers(0, 256, [24, 36, 36, 3], np.uint8)
    config = parse(
        *("--encoder=resnet18", NARROW, f"--flagfile={folder / 'shrunk.flags'}"),
        f"--workdir={folder / 'w'}",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tf_simclr.tasks.inputs.open_source", lambda *_, **__: sources.array_source(images)
        )
        tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))
    return folder / "w"


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_parses(path):
    assert parse(f"--flagfile={path}", "--workdir=unused", "--init_from=unused").encoder


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_runs_one_step(path, small_data, pretrained, tmp_path):
    (tmp_path / "shrunk.flags").write_text(SHRUNK)
    arguments = [f"--flagfile={path}", f"--flagfile={tmp_path / 'shrunk.flags'}"]
    arguments.append(f"--workdir={tmp_path / 'w'}")
    mode = parse(*arguments, "--init_from=unused").mode
    arguments.append(NARROW if mode == "pretrain" else f"--init_from={pretrained}")
    tasks.run(parse(*arguments), tf.distribute.OneDeviceStrategy("/cpu:0"))
    assert mode in read_results(str(tmp_path / "w"))


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_the_header_says_what_how_and_what_to_expect(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert f"--flagfile=flags/{path.name}" in text
    assert "Expected:" in text and ("quoted" in text or "measured" in text or "no figure" in text)
    assert "aper" in text
    assert path.read_text().startswith("#")


def test_all_recipes_are_there():
    assert {path.stem for path in FLAGFILES} >= {
        "digits_demo",
        "cifar10_resnet18",
        "cifar10_resnet18_linear_eval",
        "cifar10_resnet18_finetune",
        "imagenet_resnet50_b4096",
        "imagenet_resnet50_b8192",
        "imagenet_resnet50_linear_eval",
        "imagenet_resnet50_finetune",
        "imagenet_simclrv2_resnet152_3x_sk",
    }
