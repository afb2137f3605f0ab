"""Small but complete runs: every mode, resuming, and the files after a mistake."""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags, logging

from tests.small_runs import SMALL, contents, lines, result, run, write_images
from tests.toy_loss import Pull
from tf_simclr import flag_defs, tasks
from tf_simclr.checkpoints import load_encoder_from
from tf_simclr.config import FIELDS
from tf_simclr.config_rules import LOSS_SETTINGS
from tf_simclr.errors import UserError
from tf_simclr.losses import LOSSES
from tf_simclr.optim.schedules import WarmupCosine
from tf_simclr.tasks import build
from tf_simclr.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def pretrained(pretrained_run, tmp_path):
    """A copy of the shared run, which the test may change."""
    return shutil.copytree(pretrained_run, tmp_path / "pretrained")


def test_pretraining_leaves_what_it_promises(pretrained):
    for name in ("flags.resolved", "checkpoints", "encoder", "tensorboard", "report.html"):
        assert (pretrained / name).exists(), name
    assert [line["step"] for line in lines(pretrained)] == [2, 4, 6, 8]
    last = lines(pretrained)[-1]
    assert last["chance_level"] == pytest.approx(np.log(63))
    warmup = round(0.05 * 1297 / 32)
    schedule = WarmupCosine(0.3 * 32 / 256, warmup, 8)
    assert last["learning_rate"] == pytest.approx(float(schedule(7)))  # The rate of the last step.
    assert {"contrastive_top1", "embedding_std", "data_wait", "images_per_second"} <= set(last)
    assert result(pretrained)["pretrain"]["step"] == 8
    assert (pretrained / "views.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("tiny_encoder")
def test_a_run_may_have_a_loss_without_ranks_and_levels(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "loss_of", lambda config: Pull())
    run(tmp_path / "w", train_steps=4)
    last = lines(tmp_path / "w")[-1]
    assert last["step"] == 4 and np.isfinite(last["loss"])
    assert not {"contrastive_top1", "chance_level", "untrained_level"} & set(last)
    page = (tmp_path / "w" / "report.html").read_text()
    assert "This run had a loss of" in page and "Chance" not in page


def test_the_loss_is_a_setting(tmp_path, tiny_encoder, no_export):
    assert FIELDS["loss"].metadata["choices"] == tuple(LOSSES)
    for name, loss in LOSSES.items():  # Each with its settings.
        assert {*LOSS_SETTINGS[name], "name"} == set(inspect.signature(loss).parameters)
    run(tmp_path, loss="decoupled", train_steps=4)
    last = lines(tmp_path)[-1]
    assert last["chance_level"] == pytest.approx(np.log(62)) and "contrastive_top1" in last
    with pytest.raises(UserError, match="--loss.*decoupled"):
        run(tmp_path, loss="nt_xent", train_steps=4)


@pytest.mark.parametrize(
    ("settings", "chance"),
    [
        ({"loss": "nt_logistic", "temperature": 0.5}, np.log1p(np.exp(-2)) + np.log1p(np.exp(2))),
        ({"loss": "triplet", "margin": 0.8}, 0.8),
        ({"loss": "supervised", "lineareval_while_pretraining": True}, np.log(63)),
    ],
    ids=lambda value: value.get("loss", "") if isinstance(value, dict) else "",
)
def test_each_loss_trains(tmp_path, tiny_encoder, no_export, settings, chance):
    run(tmp_path, **settings, train_steps=2)
    run(tmp_path, **settings, train_steps=4, allow_changes=True)
    last = lines(tmp_path)[-1]
    assert last["step"] == 4 and last["chance_level"] == pytest.approx(chance)
    assert np.isfinite(last["loss"]) and last["untrained_level"] > 0
    assert ("contrastive_top1" in last) == (settings["loss"] != "supervised")
    assert ("probe_top1" in last) == (settings["loss"] == "supervised")


@pytest.mark.parametrize("mode", ["pretrain", "doctor"])
def test_a_loss_that_needs_labels_says_so_before_it_starts(tmp_path, mode):
    write_images(tmp_path / "photos")
    settings = {"dataset": "folder", "data_dir": str(tmp_path / "photos"), "train_batch_size": 4}
    with pytest.raises(UserError, match="has no labels, which this needs"):
        run(tmp_path / "w", mode=mode, loss="supervised", **settings)
    assert not (tmp_path / "w").exists()


def test_the_sub_folders_of_a_folder_are_labels_for_the_loss(tmp_path, tiny_encoder, no_export):
    for name in ("cats", "dogs"):
        write_images(tmp_path / "photos" / name)
    data = {"dataset": "folder", "data_dir": str(tmp_path / "photos"), "train_batch_size": 8}
    parts = {"micro_batch_size": 4, "eval_split": "train"}
    run(tmp_path / "w", loss="supervised", train_steps=2, **data, **parts)
    assert np.isfinite(lines(tmp_path / "w")[-1]["loss"])


def test_the_doctor_knows_a_loss_with_labels(tmp_path, tiny_encoder, capsys):
    run(tmp_path / "w", mode="doctor", loss="supervised")
    assert "supervised; about " in capsys.readouterr().out


def test_the_same_command_again_trains_no_further(pretrained):
    before = load_encoder_from(str(pretrained)).get_weights()
    run(pretrained)
    for a, b in zip(before, load_encoder_from(str(pretrained)).get_weights()):
        np.testing.assert_array_equal(a, b)
    assert [line["step"] for line in lines(pretrained)] == [2, 4, 6, 8]


def test_another_run_in_the_same_workdir_is_refused(pretrained):
    before = contents(pretrained)
    with pytest.raises(UserError, match="holds another run: --temperature was 0.1, is 0.5"):
        run(pretrained, temperature=0.5)
    assert contents(pretrained) == before


def test_knn_eval(pretrained, capsys):
    run(pretrained, mode="knn_eval", knn_k=5)
    top1 = result(pretrained)["knn_eval"]["top1"]
    assert set(top1) == {"trained encoder", "random encoder", "raw pixels"}
    assert top1["raw pixels"] > 0.9  # Ten classes; the encoders are hardly trained.
    assert "raw pixels" in capsys.readouterr().out


def test_linear_eval(pretrained, capsys):
    run(pretrained, mode="linear_eval", labels_per_class="1,all", label_draws=3, l2_sweep=3)
    rows = result(pretrained)["linear_eval"]["few_label"]
    assert [(row["features"], row["labels_per_class"]) for row in rows] == [
        (name, count)
        for name in ("trained encoder", "random encoder", "raw pixels")
        for count in (1, "all")
    ]
    assert (pretrained / "embeddings.npz").exists()
    assert "trained encoder" in capsys.readouterr().out


def test_export(pretrained, tmp_path):
    run(tmp_path / "w", mode="export", init_from=str(pretrained))
    images = np.random.default_rng(0).random([3, 8, 8, 1]).astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "w" / "encoder"))
    expected = load_encoder_from(str(pretrained))(images, training=False)
    np.testing.assert_allclose(loaded(images, training=False), expected, atol=1e-5)


def test_an_unfinished_run_goes_on_where_it_stopped(tmp_path, pretrained, no_export):
    class Stop(Exception):
        pass

    original = Workdir.log_metrics

    def stop_at_six(self, metrics):
        original(self, metrics)
        if metrics["step"] == 6:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workdir, "log_metrics", stop_at_six)
        with pytest.raises(Stop):
            run(tmp_path / "w")
    run(tmp_path / "w")
    assert [line["step"] for line in lines(tmp_path / "w")] == [2, 4, 6, 8]
    a, b = (load_encoder_from(str(w)).get_weights() for w in (tmp_path / "w", pretrained))
    for one, other in zip(a, b):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("tiny_encoder")
@pytest.mark.parametrize("name", ["lr=[1e-3,2] \\ *? %s #1 ~ e\u0301 \u00e9 日本"])
def test_a_folder_of_any_name_is_trained_in_resumed_and_evaluated(name, tmp_path, caplog):
    logging.set_verbosity(logging.INFO)
    settings = {"train_steps": 2, "checkpoint_steps": 1, "warmup_epochs": 0.0}
    run(tmp_path / name, **settings)
    weights = load_encoder_from(str(tmp_path / name)).get_weights()
    for path in (tmp_path / name / "checkpoints").glob("ckpt-2.*"):
        path.unlink()
    run(tmp_path / name, **settings)
    assert f"variables from {tmp_path / name}/checkpoints/ckpt-1." in caplog.text
    assert "TensorFlow cannot load a SavedModel from a path with [ or \\" in caplog.text
    for a, b in zip(weights, load_encoder_from(str(tmp_path / name)).get_weights()):
        np.testing.assert_array_equal(a, b)
    run(tmp_path / name, mode="knn_eval", baselines=False)
    run(tmp_path / "[v]", mode="export", init_from=f"{tmp_path / name}/encoder/")
    run(tmp_path / "[v]", mode="knn_eval", baselines=False)
    assert result(tmp_path / "[v]") == {"knn_eval": result(tmp_path / name)["knn_eval"]}


def test_pretraining_again_needs_the_workdir_only(pretrained):
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    flag_defs.parse(["tf_simclr", "--mode=pretrain", f"--workdir={pretrained}"], values)
    before = (pretrained / "flags.resolved").read_text()
    tasks.run(flag_defs.config_from_flags(values), tf.distribute.OneDeviceStrategy("/cpu:0"))
    assert (pretrained / "flags.resolved").read_text() == before
    assert [line["step"] for line in lines(pretrained)] == [2, 4, 6, 8]


def test_an_exported_encoder_brings_its_settings(pretrained):
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    command = ["--mode=knn_eval", f"--init_from={pretrained}/encoder", "--workdir=evaluated"]
    flag_defs.parse(["tf_simclr", *command], values)
    config = flag_defs.config_from_flags(values)
    assert (config.dataset, config.image_size, config.encoder) == ("digits", 8, "resnet10")
    manifest = json.loads((pretrained / "checkpoints/manifest.json").read_text())
    assert manifest["flags"]["image_size"] == 8


@pytest.mark.usefixtures("no_export")
def test_micro_batches_learn_with_a_probe_and_resume(tmp_path):
    settings = {"micro_batch_size": 8, "rematerialize": True, "lineareval_while_pretraining": True}
    run(tmp_path / "w", **settings, train_steps=6, checkpoint_steps=2)
    metrics = lines(tmp_path / "w")
    # As if stopped after step 4: the later checkpoint and all later files are deleted.
    for path in (tmp_path / "w" / "checkpoints").glob("ckpt-6.*"):
        path.unlink()
    run(tmp_path / "w", **settings, train_steps=6, checkpoint_steps=2)
    assert [line["loss"] for line in lines(tmp_path / "w")] == [line["loss"] for line in metrics]
    assert "probe_top1" in metrics[-1]


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"NaN or infinite at step [2-9];.*is kept"):
        run(
            tmp_path / "w",
            optimizer="momentum",
            weight_decay=0.0,
            learning_rate=1e25,
            learning_rate_scaling="none",
            warmup_epochs=4 / 40.53,
            train_steps=40,
            checkpoint_steps=1,
        )
    encoder = load_encoder_from(str(tmp_path / "w"))
    assert all(np.isfinite(w).all() for w in encoder.get_weights())


@pytest.mark.usefixtures("tiny_encoder", "no_export")
@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "lamb"])
def test_every_optimizer_runs_and_resumes(optimizer, tmp_path):
    settings = {"optimizer": optimizer, "learning_rate": 1e-3, "learning_rate_scaling": "none"}
    run(tmp_path / "w", train_steps=2, checkpoint_steps=1, **settings)
    run(tmp_path / "w", train_steps=2, checkpoint_steps=1, **settings)
    assert result(tmp_path / "w")["pretrain"]["step"] == 2


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_online_probe_and_steps_per_execution(tmp_path):
    run(tmp_path / "w", lineareval_while_pretraining=True, steps_per_execution=3, log_steps=4)
    assert [line["step"] for line in lines(tmp_path / "w")] == [4, 8]
    assert "probe_top1" in lines(tmp_path / "w")[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_batch_size": 2000}, "--train_batch_size=2000 is larger than the data set"),
        ({"micro_batch_size": 5}, "--micro_batch_size=5 must divide the 32 images .*: 4."),
        ({"dataset": "digitz"}, "'digitz'.*did you mean.*'digits'"),
        ({"encoder": "resnet19"}, "'resnet19'.*did you mean.*'resnet18'"),
        ({"warmup_epochs": 50.0}, "--warmup_epochs=50 is .* longer than the run of 8"),
        ({"dataset": "folder", "data_dir": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "w", **settings)
    assert not (tmp_path / "w" / "checkpoints").exists()


FOLDER = {"dataset": "folder", "image_size": 16, "train_batch_size": 4, "train_steps": 2}


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_a_folder_without_labels_pretrains_but_is_not_evaluated(tmp_path):
    write_images(tmp_path / "photos")
    settings = {**FOLDER, "data_dir": str(tmp_path / "photos"), "use_blur": True}
    run(tmp_path / "w", **settings)
    with pytest.raises(UserError, match="no labels"):
        run(tmp_path / "w", mode="knn_eval", eval_split="train", **settings)


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_a_run_does_not_go_on_with_other_images(tmp_path):
    write_images(tmp_path / "photos")
    settings = {**FOLDER, "data_dir": str(tmp_path / "photos"), "checkpoint_steps": 1}
    run(tmp_path / "w", **settings)
    (tmp_path / "photos" / "3.jpg").unlink()
    before = contents(tmp_path / "w" / "checkpoints")
    with pytest.raises(UserError, match="are not those that the run in .* was trained on"):
        run(tmp_path / "w", **settings)
    assert contents(tmp_path / "w" / "checkpoints") == before


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_a_file_that_is_no_image_is_named_or_skipped(tmp_path):
    write_images(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"this is no image, whatever its name says")
    settings = {**FOLDER, "data_dir": str(tmp_path / "photos"), "train_steps": 6}
    with pytest.raises(UserError, match="broken.jpg"):
        run(tmp_path / "w", **settings)
    run(tmp_path / "v", skip_bad_images=True, **settings)
    assert result(tmp_path / "v")["pretrain"]["step"] == 6


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_a_checkpoint_of_another_architecture_lists_what_differs(pretrained, tmp_path):
    run(tmp_path / "w", train_steps=1, warmup_epochs=0)
    flags = tmp_path / "w" / "flags.resolved"
    flags.write_text(
        flags.read_text().replace("--width_multiplier=0.125", "--width_multiplier=0.25")
    )
    before = contents(tmp_path / "w" / "checkpoints")
    with pytest.raises(UserError, match=r"(?s)shape.*kernel"):
        run(tmp_path / "w", train_steps=1, warmup_epochs=0, width_multiplier=0.25)
    assert contents(tmp_path / "w" / "checkpoints") == before


def command(workdir, *extra):
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    return [
        *[sys.executable, "-m", "tf_simclr", "--mode=pretrain", f"--workdir={workdir}"],
        *flags,
        *extra,
    ]


@pytest.mark.parametrize(
    ("extra", "message", "code"),
    [
        (
            ["--temprature=1"],
            "error: Unknown command line flag 'temprature'. Did you mean",
            2,
        ),
        (["--temperature=0"], "error: --temperature must be positive; received 0.0", 2),
        (["--mode=trian"], "error: unknown --mode 'trian': did you mean", 2),
        (["stray"], "error: 'stray' is not a flag", 2),
    ],
)
def test_the_binary_says_one_clear_line(extra, message, code, tmp_path):
    done = subprocess.run(
        command(tmp_path / "w", *extra), cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not os.path.exists(tmp_path / "w")
