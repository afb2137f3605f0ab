"""--export_formats: what the command line writes, and what it says where it cannot."""

from __future__ import annotations

import json

import pytest
from absl import flags

from tests.command_line import parse
from tests.small_runs import SMALL, result, run
from tf_simclr import flag_defs, main
from tf_simclr.config import DEFAULT_EXPORT_FORMATS
from tf_simclr.errors import UserError
from tf_simclr.export import formats

KERAS_2_ONLY = {"encoder": "MobileNetV3Small", "image_size": 32, "width_multiplier": 1.0}
EVERY = ",".join(form.name for form in formats.FORMATS)


def facts(workdir):
    return json.loads((workdir / "encoder/card.json").read_text())


def test_the_default_is_that_of_python():
    assert tuple(DEFAULT_EXPORT_FORMATS.split(",")) == formats.DEFAULT
    assert parse("--workdir=x").export_formats == DEFAULT_EXPORT_FORMATS


def test_every_format_is_written_after_training_and_by_export(tmp_path, tiny_encoder):
    run(tmp_path, export_formats=EVERY)
    differences = facts(tmp_path)["differences"]
    assert ",".join(differences) == EVERY and not facts(tmp_path)["left_out"]
    assert 1e-3 < differences["tflite_int8"] < 1  # Its scales are those of the digits.
    assert all(differences[form.name] < 1e-3 for form in formats.FORMATS if form.tolerance)
    assert "16 representative images" in facts(tmp_path)["compared_on"]
    run(tmp_path, mode="export", export_formats="keras, tflite_int8")
    assert list(facts(tmp_path)["formats"]) == ["saved_model", "keras", "tflite_int8"]
    assert not (tmp_path / "encoder/encoder.onnx").exists()


@pytest.mark.parametrize("mode", ["pretrain", "finetune", "export"])
def test_a_format_that_does_not_exist_is_refused_before_the_work(mode, tmp_path, monkeypatch):
    monkeypatch.setattr("tf_simclr.data.sources.open_source", None)  # Nothing is read.
    with pytest.raises(UserError, match="unknown export format 'onx'.*onnx"):
        run(tmp_path / "w", mode=mode, init_from="x", export_formats="keras,onx")
    assert not (tmp_path / "w/encoder").exists()


def test_what_an_encoder_does_not_allow_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="cannot be exported as h5: Keras 3 "):
        run(tmp_path, **KERAS_2_ONLY, export_formats="h5")
    assert not (tmp_path / "checkpoints").exists()


def test_a_format_that_fails_ends_with_code_2_and_the_others_are_written(
    tmp_path, tiny_encoder, monkeypatch, capsys
):
    def fail(found, folder, file, settings):
        raise ValueError("no operator Foo")

    monkeypatch.setattr("tf_simclr.export.tflite_file._write", fail)
    small = {**SMALL, "strategy": "one_device"}
    command = [f"--{name}={value}" for name, value in small.items()]
    command += [f"--workdir={tmp_path}", "--export_formats=tflite,safetensors"]
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    argv = ["tf_simclr", *command]
    assert main._main(main._parse(argv, values), values) == 2
    said = capsys.readouterr().err
    assert "without tflite: ValueError: no operator Foo" in said and str(tmp_path) in said
    assert list(facts(tmp_path)["formats"]) == ["saved_model", "safetensors"]
    assert facts(tmp_path)["left_out"] == {"tflite": "ValueError: no operator Foo"}
    assert (tmp_path / "report.html").exists() and result(tmp_path) is not None
