"""--mode=doctor --propose: the flagfile and the picture that it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from tests import small_runs
from tf_simclr import flag_defs, tasks
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.flagfile import recorded
from tf_simclr.tasks import build, calibration, doctor, inputs, proposal
from tf_simclr.tasks.need import Need
from tf_simclr.training.measuring import StepTime

CPU = tf.distribute.OneDeviceStrategy("/cpu:0")


def tiny_encoder(config, channels):
    return small_runs.tiny_encoder(dataclasses.replace(config, encoder="resnet10"), channels)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Encoders are tiny, a step takes a minute, nothing is traced; free memory is plenty."""
    monkeypatch.setattr(build, "encoder_of", tiny_encoder)
    monkeypatch.setattr(calibration, "time_of_step", lambda *args, **kwargs: StepTime(60.0, 0.0))
    monkeypatch.setattr(Need, "of", lambda *args: Need(1000, 0, 0, 2**20, 0, 0, 64))
    monkeypatch.setattr(proposal, "_cpu_instructions", lambda: {"avx", "avx512_bf16"})
    monkeypatch.setattr(doctor.Duration, "in_words", lambda self: "an hour")


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 images of 40 x 50 pixels."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(40):
        pixels = draws.integers(0, 256, [40, 50, 3], np.uint8)
        (folder / f"{index}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return folder


def config_of(*arguments):
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    flag_defs.parse(["tf_simclr", *arguments], values)
    return flag_defs.config_from_flags(values)


def test_writes_a_flagfile_to_run_and_a_picture(photos, tmp_path, capsys):
    file = tmp_path / "mine.flags"
    tasks.run(
        config_of(
            "--mode=doctor",
            *(f"--dataset={photos}", f"--propose={file}", "--train_minutes=5"),
            *("--temperature=0.1", "--train_epochs=100"),  # Their defaults.
        ),
        CPU,
    )
    config = config_of("--mode=pretrain", f"--flagfile={file}", f"--workdir={tmp_path / 'run'}")
    assert (config.dataset, config.data_dir) == ("folder", str(photos))
    assert (config.train_minutes, config.temperature, config.train_epochs) == (5.0, 0.1, 100)
    assert (config.encoder, config.width_multiplier, config.image_size) == ("resnet18", 0.5, 16)
    assert (config.train_batch_size, config.precision) == (8, "mixed_bfloat16")
    assert {"temperature", "train_epochs", "train_minutes", "data_dir"} <= config.given
    assert config.propose == ""

    text = file.read_text()
    assert text.count("# Yours.") == 5
    assert "40 images are few" in text and f"--flagfile={file}" in text
    before, line = text.split("\n--image_size=16\n")[0].rsplit("\n\n", 1)
    assert line.startswith("# Not above the images' shorter side (all are 40 px)")
    picture = tf.io.decode_png((tmp_path / "mine.png").read_bytes())
    assert picture.shape == [2 * (6 * 16 + 4), 8 * (6 * 16 + 4), 3]  # Enlarged, with a margin.
    assert not list(tmp_path.glob("*.tmp"))

    said = capsys.readouterr().out
    shown = [line for line in text.splitlines() if line.startswith("--")]
    assert all(f"proposal    {line}" in said for line in shown)
    # The rest of the report is about the proposed settings.
    assert "batch       8 on 1 replica(s), 8 each" in said
    assert said.splitlines()[-1] == "time        an hour"


def test_nothing_is_overwritten(photos, tmp_path):
    for name in ("mine.flags", "mine.png"):
        (tmp_path / name).write_text("precious")
        config = Config(mode="doctor", dataset=f"{photos}/", propose=str(tmp_path / "mine.flags"))
        with pytest.raises(UserError, match=f"{name} exists already and is not overwritten"):
            tasks.run(config, CPU)
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"propose": "nowhere/mine.flags"}, "nowhere/mine.flags cannot be written"),
        ({"workdir": "runs/mine"}, "takes no --workdir; received 'runs/mine'"),
        ({"init_from": "imagenet"}, "--init_from=imagenet needs --encoder"),
    ],
)
def test_is_refused_before_the_images_are_listed(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(**{"mode": "doctor", "dataset": "./no_such_folder", "propose": "p", **settings})
    with pytest.raises(UserError, match=message):
        tasks.run(config, CPU)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["pretrain", "knn_eval", "export", "finetune"])
def test_other_modes_propose_nothing(mode):
    with pytest.raises(UserError, match=f"--mode={mode} takes no --propose; received"):
        Config(mode=mode, workdir="w", init_from="e", propose="mine.flags")


def test_files_that_cannot_be_decoded(photos, tmp_path):
    file = tmp_path / "mine.flags"
    settings = {"mode": "doctor", "dataset": f"{photos}/", "propose": str(file)}
    for index in range(20):
        (photos / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with_some = dict(settings, train_batch_size=10)
    tasks.run(Config(**with_some), CPU)
    assert "# 20 file(s) cannot be decoded" in file.read_text()
    assert config_of(f"--flagfile={file}", "--workdir=w").skip_bad_images
    file.unlink()
    (tmp_path / "mine.png").unlink()
    with pytest.raises(
        UserError, match="has 20 images that can be used; a batch of 12 needs .* 24"
    ):
        tasks.run(Config(**settings, train_batch_size=12), CPU)
    for path in photos.iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(UserError, match="nothing to train|can be decoded"):
        tasks.run(Config(**settings), CPU)
    assert not file.exists()


def test_an_empty_folder_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    config = Config(mode="doctor", dataset=f"{tmp_path}/empty", propose=str(tmp_path / "p.flags"))
    with pytest.raises(UserError, match="no image in "):
        tasks.run(config, CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def searched(monkeypatch, free, gigabytes, **settings):
    """Searches on the digits, if `free` GiB are free and a step needs `gigabytes` per image."""
    monkeypatch.setattr(proposal, "available_bytes", lambda: free * 2**30)
    monkeypatch.setattr(
        Need, "of", lambda *args: Need(1000, 0, 0, int(gigabytes * 2**30), 0, 0, 64)
    )
    config = Config(mode="doctor", **settings)
    source = inputs.source_of(config, "train")
    given = proposal._given(config)
    facts = proposal._facts(config, CPU, source, np.zeros([0, 2], np.int64), 0)
    return proposal._search(config, CPU, source, facts, given)


def test_a_step_that_does_not_fit_is_made_in_parts(monkeypatch):
    # A batch of 256; 0.9 * 8 GiB = 0.3 + 1.15 * n * 0.1 GiB for n = 60.
    assert searched(monkeypatch, 8, 0.1)[2] == 32
    assert searched(monkeypatch, 800, 0.1)[2] == 0
    assert searched(monkeypatch, 8, 0.1, micro_batch_size=64)[2] == 64
    with pytest.raises(UserError, match="no step of the encoders that could be proposed fits"):
        searched(monkeypatch, 8, 1.0)  # 16 images would be the least.


def test_the_largest_is_chosen_that_is_fast_enough(monkeypatch):
    measured = []

    def time_of_step(config, *args, **kwargs):
        measured.append((config.encoder, config.width_multiplier, config.train_batch_size))
        return StepTime(1e-6 * config.train_batch_size, 0.0)

    monkeypatch.setattr(calibration, "time_of_step", time_of_step)
    rung, seconds, micro = searched(monkeypatch, 800, 0.001)
    assert measured == [("resnet18", 0.5, 256), ("resnet50", 1.0, 32)]
    assert rung.encoder == "resnet50" and seconds[rung] == pytest.approx(1e-6) and micro == 0


def test_precision_follows_the_device(monkeypatch):
    assert proposal._fast_precision()[0] == "mixed_bfloat16"
    monkeypatch.setattr(proposal, "_cpu_instructions", lambda: {"avx2"})
    assert proposal._fast_precision() == ("", "")
    for capability, precision in (
        ((9, 0), "mixed_bfloat16"),
        ((7, 5), "mixed_float16"),
        ((6, 1), ""),
    ):
        devices = types.SimpleNamespace(
            list_logical_devices=lambda kind: [],
            list_physical_devices=lambda kind: ["a GPU"],
            experimental=types.SimpleNamespace(
                get_device_details=lambda gpu, found=capability: {"compute_capability": found}
            ),
        )
        monkeypatch.setattr(proposal.tf, "config", devices)
        assert proposal._fast_precision()[0] == precision


def test_labels_are_used_to_evaluate(monkeypatch):
    config = Config(mode="doctor")
    assert proposal._has_labels(config, inputs.source_of(config, "train"))
    config = Config(mode="doctor", eval_split="nowhere")
    assert not proposal._has_labels(config, inputs.source_of(config, "train"))


def test_measures_a_real_step(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(build, "encoder_of", tiny_encoder)
    monkeypatch.setattr(proposal, "_MEASURING", 0.0)
    config = Config(mode="doctor", image_size=8, train_batch_size=16, use_blur=False)
    source = inputs.source_of(config, "train")
    facts = proposal._facts(config, CPU, source, np.zeros([0, 2], np.int64), 0)
    assert 0 < proposal._seconds_an_image(config, CPU, source, facts) < np.inf
    assert proposal._micro_batch(config, CPU, source, {}) == 0
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_given_settings_are_those_of_the_command_line():
    config = config_of("--mode=doctor", "--train_batch_size=512", "--seed=0")
    assert proposal._given(config) == {"seed": 0, "train_batch_size": 512}
    assert "propose" in recorded(config)
