"""--mode=doctor: what it prints, and that it writes nothing."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_loss import Pull
from tf_simclr import native, tasks
from tf_simclr.config import Config
from tf_simclr.data.decoding import MAX_BYTES
from tf_simclr.data.sources import open_source
from tf_simclr.errors import UserError
from tf_simclr.tasks import build, calibration, doctor, duration, inputs
from tf_simclr.training import measuring, memory
from tf_simclr.training.forecast import Costs

SMALL = {
    "mode": "doctor",
    "image_size": 8,
    "encoder": "resnet10",
    "width_multiplier": 0.125,
    "num_proj_layers": 2,
    "proj_out_dim": 16,
    "train_batch_size": 96,
    "train_epochs": 3,
    "warmup_epochs": 1,
}


@pytest.fixture(autouse=True)
def step_time(monkeypatch):
    """Steps are not measured: each takes 1.5 seconds. Returns what the doctor measures with."""
    measured = calibration.time_of_step
    monkeypatch.setattr(
        calibration, "time_of_step", lambda *args, **kwargs: measuring.StepTime(1.5, 0.0)
    )
    return measured


def report(capsys, **settings):
    """{title: text} of the lines that the doctor prints."""
    tasks.run(Config(**{**SMALL, **settings}), tf.distribute.OneDeviceStrategy("/cpu:0"))
    lines = capsys.readouterr().out.splitlines()
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


def test_says_what_a_run_would_do(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = report(capsys)
    assert said["images"] == "1297 in digits (train)"
    assert said["classes"] == "10, of 126 to 132 images"
    assert said["sizes"] == "all 8 x 8, 1 channel(s)"
    assert said["bad files"] == "none"
    assert said["decoding"] == "nothing to change"
    assert said["batch"] == "96 on 1 replica(s), 96 each"
    assert said["steps"] == "39, 13 per epoch"  # 1297 // 96 = 13.
    # 1297 / 96 = 13.5; 0.3 * 96 / 256.
    assert said["warmup"] == "14 steps, to a peak learning rate of 0.1125"
    # log(191).
    assert re.match(r"nt_xent; about \d\.\d+ at the start .* chance, 5\.252 ", said["loss"])
    assert said["held"] == "0.00 GiB of decoded images"
    assert said["views"] == f"made by {native.state()}"
    assert said["memory"].endswith(": fits")
    # 13 steps of 1.5 s, and 39.
    assert said["time"] == "1.5 seconds a step, 20 seconds an epoch, 58 seconds for all 39 steps"
    assert not list(tmp_path.iterdir())


def time_line(elapsed=0.0, **settings):
    """The doctor's line "time"."""
    config = Config(**{**SMALL, **settings})
    source = inputs.source_of(config, "train", keep_bad_images=True)
    known = config if config.train_steps else dataclasses.replace(config, train_steps=39)
    plan = build.plan_of(known, source.num_examples, 1)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    return duration.Duration(config, strategy, source, source, None, plan, elapsed).in_words()


def test_measures_steps(monkeypatch, step_time, tiny_encoder, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "time_of_step", step_time)
    monkeypatch.setattr(duration, "_MEASURING", 0.0)
    said = time_line(precision="mixed_bfloat16", lineareval_while_pretraining=True)
    assert re.fullmatch(r"\S+ seconds? a step, .+ an epoch, .+ for all 39 steps", said)
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    assert not list(tmp_path.iterdir())


def test_measures_a_part_of_a_large_batch_first(monkeypatch, tiny_encoder):
    """A step of 1280 images is expected to take 20 times as long as one of 64."""
    measured = []

    def time_of_step(config, *args, **kwargs):
        measured.append(config.train_batch_size)
        return measuring.StepTime(seconds, 0.0)

    monkeypatch.setattr(calibration, "time_of_step", time_of_step)
    seconds = 3.0
    said = time_line(train_batch_size=1280, warmup_epochs=-1.0)
    assert said.startswith("1 minute a step, from steps of 64 images, 1 minute an epoch")
    assert measured == [64]
    seconds = 0.2
    said = time_line(train_batch_size=1280, warmup_epochs=-1.0)
    assert said.startswith("0.2 seconds a step, 0.2 seconds an epoch")
    assert measured == [64, 64, 1280]


def test_says_how_many_steps_there_is_time_for(monkeypatch):
    costs = Costs(step=1.5, start=20.0, end=10.0)
    monkeypatch.setattr(calibration, "costs_of", lambda *args, **kwargs: costs)
    # 0.95 * 600 - 14.5 - 30 = 525.5 s.
    assert time_line(elapsed=14.5, train_minutes=10.0) == (
        "1.5 seconds a step, 20 seconds an epoch; --train_minutes=10 trains about 350 steps, "
        "which are 26.9 epochs"
    )
    said = time_line(train_minutes=0.5)
    assert said.startswith("--train_minutes=0.5 is too short: 10 steps take 15 seconds")


def test_tries_all_that_a_run_does_and_writes_nothing(monkeypatch, tmp_path, tiny_encoder):
    monkeypatch.chdir(tmp_path)
    said = time_line(train_minutes=0.01, export_formats="saved_model")
    assert said.startswith("--train_minutes=0.01 is too short: 10 steps take 15 seconds")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_ends_the_measuring_only(monkeypatch, tmp_path, step_time, tiny_encoder):
    monkeypatch.setattr(calibration, "time_of_step", step_time)
    image = tf.io.encode_png(tf.zeros([10, 12, 3], tf.uint8)).numpy()
    for index in range(12):
        (tmp_path / f"{index}.png").write_bytes(image if index else image[:40])
    folder = {"dataset": "folder", "data_dir": str(tmp_path), "train_batch_size": 12}
    said = time_line(**folder, use_blur=False)
    assert said.startswith("not measured: 1 of 12 files cannot be decoded")


def test_the_number_of_steps_may_be_unknown(capsys, monkeypatch, tiny_encoder):
    costs = Costs(step=1.5, start=20.0, end=10.0)
    monkeypatch.setattr(calibration, "costs_of", lambda *args, **kwargs: costs)
    said = report(capsys, train_minutes=10.0, warmup_epochs=-1.0)
    assert said["steps"] == "as many as there is time for, 13 per epoch"
    assert said["warmup"].startswith("at most a tenth of them, and 135 steps, to a peak")
    assert "--train_minutes=10 " in said["time"]


def test_steps_that_do_not_fit_are_not_measured(capsys, monkeypatch, tiny_encoder):
    monkeypatch.setattr(doctor, "available_bytes", lambda: 2**20)
    said = report(capsys)["time"]
    assert said == "not measured, as a step does not fit into memory"


def test_any_loss_will_do(capsys, monkeypatch):
    monkeypatch.setattr(doctor.build, "loss_of", lambda config: Pull())
    said = report(capsys)
    assert said["loss"] == "Pull" and said["memory"].endswith(": fits")


def test_looks_into_a_folder(capsys, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(60):
            image = rng.integers(0, 256, [10 + i, 90, 3], np.uint8)
            (tmp_path / name / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    (tmp_path / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    folder = {"dataset": "folder", "data_dir": str(tmp_path), "use_blur": False}
    said = report(capsys, **folder)
    assert said["images"].startswith("121 in ")
    assert said["classes"] == "2, of 60 to 61 images"
    assert said["sizes"].startswith("shorter side 10 to 69, median ")
    assert said["bad files"].startswith("1, which stop a run; --skip_bad_images")
    assert "broken.png" in said["bad files"]
    said = report(capsys, **folder, skip_bad_images=True)
    assert said["images"].startswith("120 in ") and said["bad files"].startswith("1 left out")


def test_lists_all_bad_files_and_what_is_passed_over(capsys, tmp_path):
    image = tf.io.encode_png(tf.zeros([10, 12, 3], tf.uint8)).numpy()
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(image)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "broken.png").write_bytes(image[:30])
    with (tmp_path / "giant.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (tmp_path / "photo.webp").write_bytes(b"")
    said = report(capsys, dataset="folder", data_dir=str(tmp_path), train_batch_size=12)
    assert said["bad files"].startswith("4, which stop a run; --skip_bad_images")
    for name in ("empty.png", "link.png", "broken.png", "giant.png"):
        assert name in said["bad files"]
    assert said["skipped"].startswith("Skipped: .webp 1.")
    assert said["classes"].startswith("none: ") and "24 images lie directly" in said["classes"]
    assert said["sizes"].startswith("shorter side 10 to 10") and "memory" in said


def test_counts_what_decoding_changes(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    picture = image_module.fromarray(np.full([4, 6, 3], 99, np.uint8))
    exif = image_module.Exif()
    exif[0x0112] = 6
    for i in range(3):
        picture.save(tmp_path / f"turned{i}.jpg", exif=exif)
    for i in range(2):
        picture.convert("RGBA").save(tmp_path / f"transparent{i}.png")
        picture.save(tmp_path / f"plain{i}.png")
    for i, level in enumerate((4095, 4095, 65535, 30000)):
        deep = np.full([4, 6, 1], level, np.uint16)
        (tmp_path / f"deep{i}.png").write_bytes(tf.io.encode_png(deep).numpy())
    source = open_source("folder", str(tmp_path))
    facts = doctor._facts(source)
    assert doctor._decoding(facts) == (
        "3 rotated or mirrored by EXIF; 2 with transparency, blended over white; "
        "4 of 16 bits, of which the upper 8 are kept; 2 of these nearly black, with values below "
        "4096 only: rescale them to 16 bits (of 11 images)"
    )
    assert sorted(map(tuple, facts[0])) == [(4, 6)] * 8 + [(6, 4)] * 3
    assert doctor._decoding((facts[0][:0], facts[1][:0])) == "nothing to change"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "0.10 GiB of decoded images"),
        ({"cache": "off"}, "nothing: every image is decoded in every epoch"),
        ({"cache_side": 500}, "0.03 GiB of decoded images, on the shorter side at most 500 pixels"),
    ],
    ids=str,
)
def test_says_what_is_held_in_memory(settings, expected, tmp_path, capsys):
    image = tf.io.encode_png(tf.zeros([1000, 1200, 3], tf.uint8)).numpy()
    for index in range(30):
        (tmp_path / f"{index}.png").write_bytes(image)
    folder = {"dataset": "folder", "data_dir": str(tmp_path), "train_batch_size": 12}
    assert report(capsys, **folder, **settings)["held"] == expected


def test_counts_the_variables_of_the_optimizer():
    config = Config(**SMALL, optimizer="lamb")
    source = open_source("digits")
    need = doctor.Need.of(config, source, build.plan_of(config, source.num_examples, 1))
    assert need.variables > 4 * 3 * need.parameters  # Weights and two moments, float32.


def test_finds_the_micro_batch_that_fits(capsys, monkeypatch):
    settings = {"image_size": 32, "train_batch_size": 1200, "use_blur": False}
    monkeypatch.setattr(doctor, "available_bytes", lambda: 2**30)
    said = report(capsys, **settings)["memory"]
    assert "does not fit" in said
    micro = int(said.split("--micro_batch_size=")[1].split()[0])
    assert 1 < micro < 1200 and 1200 % micro == 0
    assert report(capsys, **settings, micro_batch_size=micro)["memory"].endswith(": fits")


def test_the_largest_that_fits_or_none():
    config = Config(**{**SMALL, "train_batch_size": 12})
    need = doctor.Need(1000, 0, 0, 2**28, 0, 0, 0)  # 0.25 GiB per image.
    free = int(need.bytes(12, 4) / 0.9) + 1
    assert doctor._memory(need, config, 12, free).endswith("--micro_batch_size=4 does")
    assert "choose a smaller --encoder" in doctor._memory(need, config, 12, need.bytes(12, 1))
    assert doctor._memory(need, config, 12, 2 * need.bytes(12, 12)).endswith(": fits")
    assert "is not known" in doctor._memory(need, config, 12, None)


def test_a_mistake_ends_it_with_its_message():
    with pytest.raises(UserError, match="larger than the data set, which has 1297 images"):
        tasks.run(
            Config(**{**SMALL, "train_batch_size": 2000}),
            tf.distribute.OneDeviceStrategy("/cpu:0"),
        )
    with pytest.raises(UserError, match="--micro_batch_size=7 must divide the 96 .*: 6."):
        tasks.run(
            Config(**{**SMALL, "micro_batch_size": 7}), tf.distribute.OneDeviceStrategy("/cpu:0")
        )


def test_peak_of_a_chain_is_its_input_and_two_links():
    @tf.function
    def chain(x):
        for _ in range(5):
            x = tf.matmul(x, x)  # 4 KiB each; a link can be freed once the next is computed.
        return x

    function = chain.get_concrete_function(tf.TensorSpec([32, 32]))
    assert memory.peak_bytes(function) == pytest.approx(3 * 4096, abs=64)


def test_peak_of_a_gradient_holds_every_link_and_that_of_a_loop_its_body():
    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for _ in range(6):
                y = tf.sin(y)  # Its gradient needs its input.
        return tape.gradient(y, x)

    function = gradient.get_concrete_function(tf.TensorSpec([1024]))
    assert 6 * 4096 <= memory.peak_bytes(function) <= 9 * 4096

    @tf.function
    def loop(x):
        return tf.while_loop(
            lambda i, _: i < 3, lambda i, x: (i + 1, tf.sin(tf.tile(x, [100]))[:1024]), (0, x)
        )

    function = loop.get_concrete_function(tf.TensorSpec([1024]))
    # The tile and its sine, which may or may not reuse the tile's memory.
    assert 100 * 4096 <= memory.peak_bytes(function) <= 204 * 4096
