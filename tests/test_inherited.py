"""What a command takes over from an earlier run, or from the encoder that it names."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from tests.command_line import parse
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.flagfile import from_flagfile, to_flagfile
from tf_simclr.inherited import settings_of_encoder, settings_of_run
from tf_simclr.modes import MODES
from tf_simclr.tasks import build, exported

RUN = Config(
    workdir="w",
    dataset="cifar10",
    eval_split="validation",
    image_size=32,
    encoder="resnet18",
    temperature=0.5,
    train_steps=6,
    checkpoint_steps=3,
    keep_checkpoint_max=100,
    seed=7,
    precision="mixed_bfloat16",
    max_run_time=5.0,
    steps_per_execution=4,
    knn_k=200,  # As older versions wrote them, the defaults of theirs.
    warmup_epochs=10.0,
)
ONCE = ("mode", "workdir", "max_run_time", "steps_per_execution")  # Of what RUN sets.


def resolved(folder, config=RUN, text=None):
    """A workdir with the flags.resolved of a run."""
    os.makedirs(folder, exist_ok=True)
    (folder / "flags.resolved").write_text(text or to_flagfile(config))
    return folder


def differing(config, other):
    return {
        field.name
        for field in dataclasses.fields(Config)
        if getattr(config, field.name) != getattr(other, field.name)
    }


def test_pretraining_again_takes_what_the_run_has_recorded(tmp_path):
    workdir = resolved(tmp_path / "w")
    config = parse("--mode=pretrain", f"--workdir={workdir}")
    assert differing(config, RUN) == {"workdir", "max_run_time", "steps_per_execution"}
    assert config.changed_from(settings_of_run(str(workdir))) == {}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (["--temperature=0.2"], {"temperature": (0.5, 0.2)}),
        (["--train_steps=9", "--seed=7"], {"train_steps": (6, 9)}),
        (["--warmup_epochs=-1"], {"warmup_epochs": (10.0, -1.0)}),
        (["--nouse_blur", "--log_steps=3"], {"use_blur": (True, False)}),
        (["--precision=float32"], {"precision": ("mixed_bfloat16", "float32")}),
        (["--mode=finetune", "--init_from=x"], None),
    ],
)
def test_what_is_given_and_differs_is_refused_by_name(given, changed, tmp_path):
    workdir = resolved(tmp_path / "w")
    if changed is None:  # Another mode's run is not resumed, so nothing comes from it.
        saved = settings_of_run(str(workdir))
        assert "mode" in parse(*given, f"--workdir={workdir}").changed_from(saved)
        return
    config = parse(f"--workdir={workdir}", *given)
    assert config.changed_from(settings_of_run(str(workdir))) == changed


def test_a_flagfile_counts_as_given(tmp_path):
    workdir = resolved(tmp_path / "w")
    (tmp_path / "x.flags").write_text("--temperature=0.2\n--image_size=32\n")
    config = parse(f"--workdir={workdir}", f"--flagfile={tmp_path / 'x.flags'}")
    assert config.changed_from(settings_of_run(str(workdir))) == {"temperature": (0.5, 0.2)}


def test_epochs_on_the_command_line_beat_recorded_steps(tmp_path):
    workdir = resolved(tmp_path / "w")
    config = parse(f"--workdir={workdir}", "--train_epochs=5", "--checkpoint_epochs=2")
    assert (config.train_steps, config.checkpoint_steps) == (0, 0)
    both = parse(f"--workdir={workdir}", "--train_epochs=5", "--train_steps=8")
    assert both.train_steps == 8


@pytest.mark.parametrize("mode", ["pretrain", "finetune", "doctor"])
def test_a_new_workdir_has_the_defaults(mode, tmp_path):
    start = ["--init_from=nothing"] if mode == "finetune" else []
    config = parse(f"--mode={mode}", f"--workdir={tmp_path / 'w'}", *start)
    own = MODES[mode].defaults
    assert differing(config, Config(workdir="w", **own)) <= {"mode", "workdir", "init_from"}


def test_the_doctor_sees_the_run_that_pretraining_would_resume(tmp_path):
    workdir = resolved(tmp_path / "w")
    config = parse("--mode=doctor", f"--workdir={workdir}")
    assert differing(config, RUN) == set(ONCE)
    assert parse("--mode=doctor").temperature == 0.1


def test_finetuning_takes_data_and_model_of_its_start_and_then_its_own(tmp_path):
    start, workdir = resolved(tmp_path / "start"), tmp_path / "w"
    config = parse("--mode=finetune", f"--init_from={start}", f"--workdir={workdir}")
    assert (config.dataset, config.image_size, config.encoder) == ("cifar10", 32, "resnet18")
    assert config.train_steps == 0 and config.temperature == 0.5  # Group Model.
    own = dataclasses.replace(config, train_steps=40, image_size=48)
    resolved(workdir, own)
    again = parse("--mode=finetune", f"--workdir={workdir}")
    assert again == own


@pytest.mark.parametrize("mode", ["knn_eval", "linear_eval", "export"])
def test_evaluating_inherits_all_but_the_run_settings(mode, tmp_path):
    workdir = resolved(tmp_path / "w")
    config = parse(f"--mode={mode}", f"--workdir={workdir}", "--image_size=48")
    assert (config.image_size, config.knn_k, config.eval_split) == (48, 200, "validation")
    assert (config.max_run_time, config.seed) == (0.0, 0)


@pytest.mark.parametrize("mode", ["knn_eval", "linear_eval", "export", "finetune"])
@pytest.mark.parametrize("flag", ["--encoder=resnet50", "--width_multiplier=2", "--sk_ratio=0.1"])
def test_the_architecture_is_that_of_the_encoder(flag, mode, tmp_path):
    start = resolved(tmp_path / "w")
    command = [f"--mode={mode}", f"--init_from={start}", "--workdir=evaluated"]
    name = flag.lstrip("-").partition("=")[0]
    with pytest.raises(UserError, match=f"--mode={mode} does not use --{name}; received"):
        parse(*command, flag)
    assert parse(*command, "--encoder=resnet18").encoder == "resnet18"  # As it is.


class _Named:
    name, fingerprint = "cifar10", "f"


def checkpoint(folder):
    import tensorflow as tf

    encoder = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
    os.makedirs(folder)
    (folder / "manifest.json").write_text(json.dumps(build.manifest_of(RUN, _Named(), encoder)))
    (folder / "ckpt-6.index").write_bytes(b"")


def export(folder, **more):
    """The card of an export, as tasks write it, and its .keras file."""
    os.makedirs(folder)
    facts = {
        **exported.card_of(RUN, "cifar10 (train)", "SimCLR"),
        "input": {"image_size": 32},
        **more,
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(facts))
    (folder / "encoder.keras").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "of"),
    [
        (lambda d: resolved(d / "w"), "w"),
        (lambda d: resolved(d / "w"), "w/"),
        (lambda d: checkpoint(d / "w/checkpoints"), "w"),
        (lambda d: checkpoint(d / "w/checkpoints"), "w/checkpoints"),
        (lambda d: checkpoint(d / "w/checkpoints"), "w/checkpoints/ckpt-6"),
        (lambda d: checkpoint(d / "w/checkpoints"), "w/checkpoints/ckpt-6.index"),
        (lambda d: export(d / "w/encoder"), "w"),
        (lambda d: export(d / "w/encoder"), "w/encoder"),
        (lambda d: export(d / "w/encoder"), "w/encoder/"),
        (lambda d: export(d / "w/encoder"), "w/encoder/encoder.keras"),
        (lambda d: export(d / "moved"), "moved/encoder.keras"),
    ],
)
@pytest.mark.parametrize("mode", ["knn_eval", "linear_eval", "export", "finetune"])
def test_an_encoder_brings_its_settings(mode, make, of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    config = parse(f"--mode={mode}", f"--init_from={of}", "--workdir=evaluated")
    assert (config.dataset, config.image_size, config.encoder) == ("cifar10", 32, "resnet18")
    assert config.eval_split == "validation"


OLD = {"settings": None}  # A card as older versions wrote it.


@pytest.mark.parametrize("of", ["w/encoder", "w/encoder/encoder.keras"])
def test_an_old_card_is_completed_by_the_run_around_it(of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved(tmp_path / "w")
    export(tmp_path / "w/encoder", **OLD)
    config = parse("--mode=knn_eval", f"--init_from={of}", "--workdir=evaluated")
    assert (config.dataset, config.image_size, config.knn_k) == ("cifar10", 32, 200)


@pytest.mark.parametrize(
    ("make", "of", "asked"),
    [
        (lambda d: export(d / "w", **OLD), "w", "Pass --dataset,"),
        (lambda d: export(d / "w", **OLD), "w/encoder.keras", "Pass --dataset,"),
        (
            lambda d: export(d / "w", input={"image_size": "any"}, **OLD),
            "w",
            "Pass --dataset and --image_size,",
        ),
        (lambda d: (d / "x.keras").write_bytes(b""), "x.keras", "Pass --dataset and --image_size,"),
        (lambda d: (d / "w").mkdir(), "w", "Pass --dataset and --image_size,"),
        (lambda d: (d / "ckpt-1.index").write_bytes(b""), "ckpt-1", "Pass --dataset and"),
        # The run around it is of another encoder.
        (
            lambda d: [resolved(d / "w"), export(d / "w/encoder", encoder="resnet50", **OLD)],
            "w/encoder",
            "Pass --dataset,",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["knn_eval", "linear_eval", "export", "finetune"])
def test_what_nothing_says_is_asked_for(mode, make, of, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    command = [f"--mode={mode}", f"--init_from={of}", "--workdir=evaluated"]
    with pytest.raises(UserError, match=asked) as error:
        parse(*command)
    assert of in str(error.value)
    config = parse(*command, "--dataset=digits", "--image_size=8")
    assert (config.dataset, config.image_size) == ("digits", 8)


def test_an_encoder_that_is_not_there_is_not_asked_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("--mode=knn_eval", "--init_from=no/such", "--workdir=w").init_from == "no/such"


def test_the_card_holds_nothing_of_the_machine():
    own = dataclasses.replace(RUN, data_dir="/data/photos", data_service="grpc://host:1")
    settings = exported.card_of(own, "", "")["settings"]
    assert settings["dataset"] == "cifar10" and settings["image_size"] == 32
    assert not {"data_dir", "data_service", "workdir", "init_from"} & set(settings)


def test_the_folder_of_images_comes_from_the_run_around_an_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = dataclasses.replace(RUN, dataset="folder", data_dir=str(tmp_path))
    resolved(tmp_path / "w", own)
    export(tmp_path / "w/encoder", **exported.card_of(own, "", ""))
    config = parse("--mode=knn_eval", "--init_from=w/encoder", "--workdir=evaluated")
    assert config.data_dir == str(tmp_path)
    (tmp_path / "w/flags.resolved").unlink()
    with pytest.raises(UserError, match="--dataset=folder needs --data_dir"):
        parse("--mode=knn_eval", "--init_from=w/encoder", "--workdir=evaluated")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("card.json", "[]", "card.json is not a JSON object"),
        ("card.json", "{" * 9999, "card.json is not a JSON object"),
        ("card.json", '{"settings": {"image_size": "x"}}', "card.json has --image_size=x, which"),
        ("card.json", '{"settings": [1]}', r"card.json has \[1\] instead of settings"),
        ("card.json", '{"input": {"image_size": []}}', r"card.json has --image_size=\[\], which"),
        ("manifest.json", '{"flags": {"seed": [1]}}', r"manifest.json has --seed=\[1\], which"),
        ("manifest.json", "\udcff", "manifest.json cannot be read"),
        ("flags.resolved", "--seed=x\n", "flags.resolved has --seed=x, which is not of type int"),
    ],
)
def test_a_damaged_file_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message) as error:
        settings_of_encoder(str(tmp_path))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("flag", ["workdir", "init_from", "data_dir"])
def test_home_is_found_in_every_path(flag, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = ["--workdir=w", "--dataset=digits", "--image_size=8"]
    for form in ([f"--{flag}=~/x"], [f"--{flag}", "~/x"], ["--flagfile=f"]):
        (tmp_path / "f").write_text(f"--{flag}=~/x\n")
        assert getattr(parse(*given, *form), flag) == str(tmp_path / "x")
    for unchanged in (f"file://{tmp_path}/~/x", "./~/x", "a~", "x/~"):
        assert getattr(parse(*given, f"--{flag}={unchanged}"), flag) == unchanged


@pytest.mark.parametrize("mode", ["pretrain", "knn_eval"])
def test_home_is_found_before_what_is_there_is_read(mode, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    resolved(tmp_path / "w")
    assert parse(f"--mode={mode}", "--workdir=~/w").image_size == 32


@pytest.mark.parametrize("content", ["{}", '{"input": 3}', '{"settings": {}}', '{"encoder": "b"}'])
def test_a_card_that_says_too_little_is_not_completed(content, tmp_path):
    resolved(tmp_path / "w")
    (tmp_path / "w/encoder").mkdir()
    (tmp_path / "w/encoder/card.json").write_text(content)
    assert "dataset" not in settings_of_encoder(str(tmp_path / "w/encoder"))


def test_a_home_that_is_not_known_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--workdir=~nobody_here/x: ~nobody_here names no home"):
        parse("--workdir=~nobody_here/x")
    (tmp_path / "~").mkdir()  # As older versions made it.
    with pytest.raises(UserError, match=r"--data_dir=~: ~ is also a folder here\. Write \./~ for"):
        parse("--workdir=w", "--data_dir=~")
    assert parse("--workdir=w", "--data_dir=~/x").data_dir == str(tmp_path / "x")


def test_recorded_paths_hold_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    config = Config(workdir="w", dataset="folder", data_dir="photos/", init_from="x/y")
    saved = from_flagfile(to_flagfile(config))
    assert saved["data_dir"] == str(tmp_path / "photos")
    assert saved["init_from"] == str(tmp_path / "x/y")
    assert "workdir" not in saved
    assert config.changed_from(saved) == {}
    away = dataclasses.replace(config, data_dir="gs://bucket/photos", init_from="")
    recorded = from_flagfile(to_flagfile(away))
    assert (recorded["data_dir"], recorded["init_from"]) == ("gs://bucket/photos", "")


@pytest.mark.parametrize("odd", ["a\nb", "a\udcff"])
def test_a_folder_that_cannot_be_written_down_breaks_nothing(odd, tmp_path, monkeypatch):
    (tmp_path / odd).mkdir()
    monkeypatch.chdir(tmp_path / odd)
    config = Config(workdir="w", data_dir="photos", seed=3)
    assert Config(workdir="w", **from_flagfile(to_flagfile(config))) == config


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("photos", "photos", True),
        ("photos", "{here}/photos", True),  # As older versions wrote it.
        ("{here}/photos", "photos/", True),
        ("{here}/photos", "{here}/link", True),
        ("{here}/photos", "{here}/others", False),
        ("photos", "others", True),  # Relative to a folder that is not known: so here, too.
        ("elsewhere/photos", "{here}/photos", True),  # Moved: the fingerprint decides.
        ("{here}/gone", "{here}/photos", True),
        ("", "photos", False),
        ("photos", "", False),
        ("gs://a/photos", "gs://b/photos", False),
    ],
)
def test_the_same_folder_is_no_change(before, now, same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "link").symlink_to("photos")
    before, now = (path.format(here=tmp_path) for path in (before, now))
    saved = {**from_flagfile(to_flagfile(Config(workdir="w"))), "data_dir": before}
    changed = Config(workdir="w", data_dir=now).changed_from(saved)
    assert changed == ({} if same else {"data_dir": (before, now)})


@pytest.mark.parametrize(
    ("dataset", "data_dir"), [("cifar10", ""), ("digits", ""), ("folder", "{here}/photos")]
)
def test_another_data_set_brings_no_folder(dataset, data_dir, tmp_path):
    data_dir = data_dir.format(here=tmp_path)
    (tmp_path / "photos").mkdir()
    resolved(tmp_path / "w", Config(workdir="w", dataset=f"{tmp_path}/photos", image_size=8))
    config = parse("--mode=knn_eval", f"--workdir={tmp_path}/w", f"--dataset={dataset}")
    assert (config.dataset, config.data_dir) == (dataset, data_dir)


def test_sets_of_tfds_lie_in_one_data_dir(tmp_path):
    resolved(tmp_path / "w", Config(workdir="w", dataset="cifar10", data_dir="/tfds", label="x"))
    config = parse("--mode=knn_eval", f"--workdir={tmp_path}/w", "--dataset=cifar100")
    assert (config.dataset, config.data_dir, config.label) == ("cifar100", "/tfds", "")


@pytest.mark.parametrize("mode", ["pretrain", "knn_eval"])
def test_an_old_relative_path_is_asked_for_elsewhere(mode, tmp_path, monkeypatch):
    text = to_flagfile(RUN).replace("--data_dir=", "--data_dir=photos")
    resolved(tmp_path / "w", text=text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert parse(f"--mode={mode}", "--workdir=w").data_dir == "photos"
    monkeypatch.chdir(tmp_path / "photos")
    with pytest.raises(UserError, match="--data_dir=photos, relative to another folder than"):
        parse(f"--mode={mode}", "--workdir=../w")
    assert parse(f"--mode={mode}", "--workdir=../w", "--data_dir=.").data_dir == "."
