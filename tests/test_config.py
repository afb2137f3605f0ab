"""Config: checks on construction, the flagfile round trip, what a resumed run may change."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import pytest
from absl import flags

from tf_simclr.config import FIELDS, Config
from tf_simclr.errors import UserError
from tf_simclr.flag_defs import config_from_flags, define_flags, flag_table, parse
from tf_simclr.flagfile import from_flagfile, to_flagfile
from tf_simclr.modes import MODES


def test_defaults_are_valid_and_frozen():
    config = Config(workdir="w")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "pretrian"}, "unknown --mode 'pretrian': did you mean 'pretrain'"),
        ({"optimizer": "larz"}, "unknown --optimizer 'larz': did you mean 'lars'"),
        ({"temperature": 0.0}, "--temperature must be positive; received 0.0"),
        ({"temperature": float("nan")}, "--temperature must be positive; received nan"),
        ({"train_batch_size": 0}, "--train_batch_size must be at least 2; received 0"),
        ({"blur_probability": 1.5}, "--blur_probability must be from 0 to 1; received 1.5"),
        ({"learning_rate": float("nan")}, "--learning_rate must be at least 0; received nan"),
        ({"workdir": ""}, "--mode=pretrain needs --workdir, the folder"),
        ({"dataset": "folder"}, "--dataset=folder needs --data_dir"),
        ({"mode": "finetune"}, "--mode=finetune needs --init_from"),
        (
            {"mode": "finetune", "init_from": "x", "precision": "mixed_float16"},
            "--mode=finetune takes --precision=float32 only; received 'mixed_float16'",
        ),
        ({"labels_per_class": "1,many"}, "received '1,many'"),
        ({"labels_per_class": "0"}, "received '0'"),
        ({"warmup_epochs": -0.5}, "--warmup_epochs must be at least 0, or -1 for 10 but"),
        ({"warmup_epochs": -2.0}, "--warmup_epochs must be at least -1; received -2.0"),
        (
            {"loss": "triplet", "temperature": 0.5},
            "--loss=triplet takes --margin, and no temperature; received --temperature=0.5. Leave",
        ),
        (
            {"margin": 0.8},
            "--loss=nt_xent takes --temperature, and no margin; received --margin=0.8. Leave",
        ),
        ({"loss": "triplet", "margin": -0.1}, "--margin must be at least 0; received -0.1"),
        ({"knn_k": -1}, "--knn_k must be at least 0; received -1"),
    ],
)
def test_bad_values_are_named(settings, message):
    with pytest.raises(UserError) as error:
        Config(**{"workdir": "w", **settings})
    assert message in str(error.value)


def test_flagfile_round_trip():
    config = Config(
        workdir="w",
        seed=7,
        jit_compile=True,
        temperature=0.35,
        data_dir="/a b=c",
        encoder="resnet18",
    )
    assert Config(workdir="w", **from_flagfile(to_flagfile(config))) == config
    assert "workdir" not in from_flagfile(to_flagfile(config))


def test_changes_that_alter_the_run_are_found():
    saved = from_flagfile(to_flagfile(Config(workdir="w")))
    changed = Config(workdir="v", temperature=0.5, log_steps=3, strategy="mirrored")
    assert changed.changed_from(saved) == {"temperature": (0.1, 0.5)}
    other = Config(workdir="w", mode="finetune", init_from="x")
    assert other.changed_from(saved) == {"mode": ("pretrain", "finetune")}


def test_a_setting_younger_than_the_run_had_its_default():
    saved = dataclasses.asdict(Config(workdir="w"))
    del saved["cache_side"]
    assert Config(workdir="w").changed_from(saved) == {}
    assert Config(workdir="w", cache_side=8).changed_from(saved) == {"cache_side": (0, 8)}


@pytest.mark.parametrize(
    ("dataset", "data_dir"),
    [
        ("/photos", "/photos"),
        ("/photos/", "/photos"),
        ("./photos", "./photos"),
        ("../photos", "../photos"),
        ("~/photos", "~/photos"),
        (".", "."),
        ("gs://bucket/photos", "gs://bucket/photos"),
        ("some/where", "some/where"),
    ],
)
def test_a_path_is_a_folder(dataset, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "where").mkdir(parents=True)
    config = Config(workdir="w", dataset=dataset)
    data_dir = os.path.expanduser(data_dir)
    assert (config.dataset, config.data_dir) == ("folder", data_dir)
    assert config == Config(workdir="w", dataset="folder", data_dir=data_dir)
    again = Config(workdir="w", **from_flagfile(to_flagfile(config)))
    recorded = data_dir if "://" in data_dir else os.path.abspath(data_dir)
    assert (again.dataset, again.data_dir) == ("folder", recorded)
    assert Config(workdir="w", dataset=dataset, data_dir=data_dir) == config
    with pytest.raises(UserError, match="--data_dir=elsewhere names another"):
        Config(workdir="w", dataset=dataset, data_dir="elsewhere")


@pytest.mark.parametrize("dataset", ["photos", "imagenet_resized/32x32", "set:1.0.0", "no/where"])
def test_a_name_is_not_a_path(dataset, tmp_path, monkeypatch):
    """Nor is the folder of a prepared TFDS set, which can lie in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    prepared = tmp_path / "imagenet_resized" / "32x32" / "0.1.0" / "dataset_info.json"
    prepared.parent.mkdir(parents=True)
    prepared.write_text("{}")
    config = Config(workdir="w", dataset=dataset, data_dir="d")
    assert (config.dataset, config.data_dir) == (dataset, "d")


@pytest.mark.parametrize(
    ("arguments", "dataset", "data_dir", "label"),
    [
        ([], "folder", "/old", "kind"),
        (["--dataset=/new"], "folder", "/new", ""),
        (["--dataset=/new", "--data_dir=/new"], "folder", "/new", ""),
        (["--dataset=cifar10"], "cifar10", "", ""),
        (["--data_dir=/other"], "folder", "/other", "kind"),
    ],
)
def test_another_data_set_inherits_no_folder(arguments, dataset, data_dir, label, tmp_path):
    saved = Config(workdir="w", dataset="/old", label="kind")
    (tmp_path / "flags.resolved").write_text(to_flagfile(saved))
    values = flags.FlagValues()
    define_flags(values)
    parse(["tf_simclr", "--mode=knn_eval", f"--workdir={tmp_path}", *arguments], values)
    config = config_from_flags(values)
    assert (config.dataset, config.data_dir, config.label) == (dataset, data_dir, label)


def test_label_counts():
    assert Config(workdir="w", labels_per_class="1, 10,all").label_counts() == (1, 10, None)


def test_every_setting_is_explained():
    for field in dataclasses.fields(Config):
        assert field.metadata["help"].endswith(".") and field.metadata["group"], field.name


def test_the_readme_lists_every_flag():
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    assert flag_table() in readme, "put flag_defs.flag_table() between README's flags markers"


def test_the_rows_of_modes_name_settings_and_groups_that_exist():
    groups = {field.metadata["group"] for field in FIELDS.values()}
    for name, mode in MODES.items():
        assert set(mode.inherits) <= groups, name
        named = {*mode.requires, *mode.defaults, *mode.only, *mode.unused}
        assert named <= FIELDS.keys(), name
        assert mode.resumes in {"", *MODES}, name
