"""Paths with a scheme that TensorFlow has no file system for are refused before the work starts."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tests.command_line import parse
from tf_simclr import tasks
from tf_simclr.config import FIELDS, Config
from tf_simclr.errors import UserError
from tf_simclr.storage import require_known_scheme

PATHS = [name for name, field in FIELDS.items() if field.metadata["path"]]


@pytest.mark.parametrize("scheme", ["s3", "hdfs", "abc"])
def test_unknown_schemes_are_named_with_the_known_ones(scheme):
    with pytest.raises(UserError, match=f"--x={scheme}://b/y: .* cannot open {scheme}:// .*ram://"):
        require_known_scheme(f"{scheme}://b/y", "--x")


@pytest.mark.parametrize("path", ["", "a/b", "/a", "ram://a", "file:///a", "a:b", "s3:/a", "s3"])
def test_other_paths_pass(path):
    require_known_scheme(path, "--x")


@pytest.mark.parametrize("name", PATHS)
def test_every_path_of_a_run_is_checked(name, tmp_path):
    assert len(PATHS) >= 4
    mode = "doctor" if name == "propose" else "pretrain"
    settings = {"mode": mode, "workdir": str(tmp_path)}
    settings |= {"eval_dataset": "folder", "eval_data_dir": "x"}
    config = Config(**{**settings, name: "s3://bucket/x"})
    with pytest.raises(UserError, match=f"--{name}=s3://bucket/x"):
        tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["workdir", "init_from"])
@pytest.mark.parametrize("mode", ["pretrain", "knn_eval", "finetune"])
def test_the_command_line_checks_before_it_reads_settings_there(mode, name):
    with pytest.raises(UserError, match=f"--{name}=s3://b/x: .* cannot open s3:// here"):
        parse(f"--mode={mode}", f"--{name}=s3://b/x")
