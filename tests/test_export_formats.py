"""The export is a list of formats over one folder that is replaced at once."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.exported import contents, small_encoder
from tests.replicas import mirrored
from tf_simclr.errors import UserError
from tf_simclr.export import (
    check_exportable,
    export_encoder,
    formats,
    load_encoder,
    refresh_card,
    saved_model,
)
from tf_simclr.export.exportable import exportable
from tf_simclr.export.formats import Format
from tf_simclr.export.probe import relative_difference


def write_toy(found, folder):
    (pathlib.Path(folder) / "toy.txt").write_text(str(found.embedding_dim))
    return {"toy_opset": 17}


def load_toy(found, folder):
    """The vectors of the model, as if they came from the file."""
    assert (pathlib.Path(folder) / "toy.txt").exists()
    return lambda images: found.model(images, training=False).numpy()


def fail(found, folder):
    (pathlib.Path(folder) / "half").mkdir()
    (pathlib.Path(folder) / "half" / "file").write_text("")
    raise ValueError("no such operator")


def run_missing_program(found, folder):
    subprocess.run(["no-such-converter"], check=True)


def add(monkeypatch, **fields):
    toy = {"name": "toy", "files": ("toy.txt",), "write": write_toy, "load": load_toy, **fields}
    form = Format(**toy)
    monkeypatch.setattr(formats, "FORMATS", [*formats.FORMATS, form])
    monkeypatch.setattr("tf_simclr.export.card.FORMATS", formats.FORMATS)


def card_of(folder):
    return json.loads((folder / "card.json").read_text()), (folder / "card.md").read_text()


def test_a_format_is_one_function_and_one_entry(tmp_path, monkeypatch):
    add(monkeypatch, use={"Toy": "toy = open('this/folder/toy.txt')"})
    export_encoder(small_encoder(), tmp_path / "e", formats=["keras", "toy"])
    assert (tmp_path / "e" / "toy.txt").read_text() == "4"
    facts, text = card_of(tmp_path / "e")
    assert facts["formats"]["saved_model"] == ["saved_model.pb", "variables"]
    assert facts["formats"]["keras"] == ["encoder.keras"]
    assert facts["formats"]["toy"] == ["toy.txt"] and len(facts["formats"]) == 3
    assert facts["differences"] == pytest.approx({"saved_model": 0, "keras": 0, "toy": 0}, abs=1e-4)
    assert facts["toy_opset"] == 17 and "toy" not in facts["left_out"]
    for line in ("Toy, from toy.txt", "toy = open(", "KerasLayer", "load_model"):
        assert line in text.split("## Use")[1]


def load_wrong(found, folder):
    return lambda images: found.probe.h + 2e-3 * found.probe.h.std(axis=0)


def load_short(found, folder):
    return lambda images: found.probe.h[:, :-1]


BAD = {
    "writing": ({"write": fail}, "ValueError: no such operator"),
    "program": ({"write": run_missing_program}, "FileNotFoundError: .*no-such-converter.*"),
    "missing": ({"files": ("toy.txt", "other")}, "it did not write other."),
    "loading": ({"load": fail}, "ValueError: no such operator"),
    "other vectors": (
        {"load": load_wrong},
        "what was written gives other vectors: 0.002 standard deviations of a dimension away from "
        "the Keras model's, more than 0.001.",
    ),
    "other shape": ({"load": load_short}, ".*other vectors: inf .*"),
    "told beforehand": ({"why_not": lambda model: "it is small."}, "it is small."),
    "no images": ({"needs_images": True}, "it needs representative images."),
}


@pytest.mark.parametrize("case", BAD)
def test_a_format_that_is_asked_for_and_fails_is_named_and_the_others_are_written(
    case, tmp_path, monkeypatch
):
    fields, reason = BAD[case]
    add(monkeypatch, **fields)
    with pytest.raises(UserError, match=rf"encoder is in .*/e, but without toy: {reason}"):
        export_encoder(small_encoder(), tmp_path / "e", formats=["keras", "toy"])
    facts, text = card_of(tmp_path / "e")
    assert re.fullmatch(reason, facts["left_out"]["toy"]) and "toy" not in facts["formats"]
    assert "toy_opset" not in facts and "toy was not written; left\\_out above says why." in text
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert not names & {"toy.txt", "half"} and {"saved_model.pb", "encoder.keras"} <= names
    load_encoder(tmp_path / "e")


@pytest.mark.parametrize("case", ["told beforehand", "writing"])
def test_a_default_format_that_fails_is_left_out(case, tmp_path, monkeypatch):
    fields, reason = BAD[case]
    add(monkeypatch, **fields)
    monkeypatch.setattr("tf_simclr.export.exporting.DEFAULT", ("saved_model", "toy"))
    left_out = check_exportable(small_encoder(), formats=("saved_model", "toy"))
    assert left_out == ({"toy": reason} if case == "told beforehand" else {})
    export_encoder(small_encoder(), tmp_path / "e", formats=("saved_model", "toy"))
    assert card_of(tmp_path / "e")[0]["left_out"] == {"toy": reason}


def test_what_is_known_beforehand_is_said_before_training(monkeypatch):
    add(monkeypatch, why_not=lambda model: "it is small.")
    with pytest.raises(UserError, match="'small' cannot be exported as toy: it is small."):
        check_exportable(small_encoder(), formats=["toy"])
    add(monkeypatch, packages={"no_such_package": "pip install it"})
    for act in (check_exportable, lambda encoder, **kw: export_encoder(encoder, "x", **kw)):
        with pytest.raises(UserError, match="toy needs no_such_package: pip install it"):
            act(small_encoder(), formats=["toy"])
        with pytest.raises(UserError, match="unknown export format 'onx'.*onnx"):
            act(small_encoder(), formats=["onx"])
        with pytest.raises(UserError, match="formats must be a list of names; received 'onnx'"):
            act(small_encoder(), formats="onnx")


def test_a_random_encoder_is_exported_though_it_cannot_be_compared(tmp_path, monkeypatch):
    images = tf.keras.Input([None, None, 3])
    noise = tf.keras.layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)))(images)
    h = tf.keras.layers.GlobalAveragePooling2D()(tf.keras.layers.Conv2D(4, 3)(noise))
    add(monkeypatch, load=load_wrong)
    export_encoder(tf.keras.Model(images, h), tmp_path / "e", formats=["toy"])
    assert card_of(tmp_path / "e")[0]["differences"]["toy"] == pytest.approx(2e-3)


def test_the_difference_is_measured_in_deviations_of_each_dimension():
    rng = np.random.default_rng(0)
    h = rng.normal(size=[50, 3]) * [1.0, 10.0, 0.001]
    other = h + np.array([0.0, 0.5, 0.0])
    expected = 0.5 / h[:, 1].std()
    assert relative_difference(h, other) == pytest.approx(expected)
    assert relative_difference(h, h) == 0
    # The third dimension hardly varies: it is measured against a tenth of the mean deviation.
    assert relative_difference(h, h + [0, 0, 1]) == pytest.approx(10 / h.std(axis=0).mean())
    # Nor does any here: they are measured against a hundredth of their size.
    near = 100 + 1e-3 * h
    assert relative_difference(near, near + 0.1) == pytest.approx(0.1, rel=1e-2)
    assert relative_difference(np.ones([4, 2]), np.ones([4, 2]) * 1.5) == pytest.approx(50)
    zeros = np.zeros([4, 2])
    assert relative_difference(zeros, zeros) == 0 and relative_difference(zeros, zeros + 0.1) == 0.1
    nan = np.where(np.arange(150).reshape(50, 3) == 7, np.nan, h)
    assert relative_difference(nan, nan) == 0
    assert np.isinf(relative_difference(h, nan)) and np.isinf(relative_difference(h, h[:-1]))


@pytest.mark.parametrize("case", BAD)
def test_a_required_format_that_fails_loses_nothing(case, tmp_path, monkeypatch):
    export_encoder(small_encoder(), tmp_path / "e")
    before = contents(tmp_path)
    fields, reason = BAD[case]
    add(monkeypatch, **fields, required=True)
    with pytest.raises(UserError, match=f"'small' cannot be exported as toy: {reason}"):
        export_encoder(small_encoder(), tmp_path / "e")
    assert contents(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == ["e"]


def test_a_disk_that_fails_is_no_reason_to_leave_a_format_out(tmp_path, monkeypatch):
    def full(found, folder):
        raise OSError("No space left on device")

    add(monkeypatch, write=full)
    message = "toy cannot be written to the folder for temporary files, .*No space left.*TMPDIR"
    with pytest.raises(UserError, match=message):
        export_encoder(small_encoder(), tmp_path / "e", formats=["toy"])
    assert not any(tmp_path.iterdir())


def test_an_operation_that_fails_is_a_reason_to_leave_its_format_out(tmp_path, monkeypatch):
    add(monkeypatch, write=lambda found, folder: tf.linalg.matmul([1.0], [1.0]))
    with pytest.raises(UserError, match="but without toy: .*MatMul"):
        export_encoder(small_encoder(), tmp_path / "e", formats=["toy"])
    assert (tmp_path / "e/saved_model.pb").exists()


def test_an_export_inside_the_scope_of_a_strategy(tmp_path):
    with mirrored(2).scope():
        encoder = small_encoder()
        export_encoder(encoder, tmp_path / "e", formats=["keras", "h5", "tflite", "safetensors"])
    differences = card_of(tmp_path / "e")[0]["differences"]
    assert len(differences) == 5 and max(differences.values()) < 1e-4


def test_what_is_no_longer_there_and_what_lies_far_off_is_logged(tmp_path, monkeypatch, caplog):
    add(monkeypatch, tolerance=None, load=lambda found, folder: lambda x: found.probe.h * 2.0)
    logging.set_verbosity(logging.INFO)
    export_encoder(small_encoder(), tmp_path / "e", formats=["keras", "toy"])
    assert "vectors of toy differ from" in caplog.text
    export_encoder(small_encoder(), tmp_path / "e", formats=["h5"])
    assert f"No longer in {tmp_path}/e: encoder.keras, toy.txt." in caplog.text


def test_representative_images_are_given_or_made_when_they_are_needed(tmp_path, monkeypatch):
    def unreadable():
        raise UserError("the disk is away.")

    images = np.full([20, 9, 7, 3], 255, np.uint8)
    add(monkeypatch)
    for given, kind in ((images, "16 representative"), (unreadable, "16 synthetic")):
        options = {"formats": ["toy"], "representative_images": given}
        export_encoder(small_encoder(), tmp_path / "e", **options)
        assert card_of(tmp_path / "e")[0]["compared_on"].startswith(kind)
    add(monkeypatch, needs_images=True)
    options["formats"] = ["toy", "h5"]
    with pytest.raises(UserError, match="without toy: images .* cannot be read: the disk is away"):
        export_encoder(small_encoder(), tmp_path / "e", **options)
    assert (tmp_path / "e/encoder.h5").exists()
    for wrong, message in (
        (images[:, :, :, :2], r"must be \[n, 9, 7, 3\].*received \[20, 9, 7, 2\]"),
        (images[0], r"received \[9, 7, 3\]"),
        (images[:0], "n at least 1"),
        (images * 2.0, "received values from 510 to 510"),
        (images.astype(np.int32), "received int32"),
    ):
        with pytest.raises(UserError, match=message):
            export_encoder(small_encoder(), tmp_path / "f", representative_images=wrong)


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff"])
def test_a_saved_model_that_is_not_whole_is_noticed(content, tmp_path):
    with exportable(small_encoder(), None) as found:
        (tmp_path / "saved_model.pb").write_bytes(content)
        with pytest.raises(UserError, match="it is damaged"):
            saved_model.load(found, str(tmp_path))


def test_a_saved_model_without_a_signature_is_noticed(tmp_path):
    with exportable(small_encoder(), None) as found:
        tf.saved_model.save(found.root, str(tmp_path))
        with pytest.raises(UserError, match="it lacks the signatures endpoints, serving_default"):
            saved_model.load(found, str(tmp_path))


def test_a_replacement_that_fails_at_the_last_move_is_undone(tmp_path, monkeypatch):
    export_encoder(small_encoder(), tmp_path / "e")
    before, rename = contents(tmp_path), tf.io.gfile.rename

    def fail_at_last(source, target, overwrite=False):
        if source.endswith("e.new"):
            raise tf.errors.UnavailableError(None, None, "away")
        rename(source, target, overwrite)

    monkeypatch.setattr(tf.io.gfile, "rename", fail_at_last)
    with pytest.raises(UserError, match="cannot be written to .*away"):
        export_encoder(small_encoder(), tmp_path / "e")
    assert contents(tmp_path) == before


def test_a_card_is_refreshed_whole_or_not_at_all(tmp_path, monkeypatch):
    export_encoder(small_encoder(), tmp_path / "e", card={"trained_on": "x", "results": {"a": {}}})
    refresh_card(str(tmp_path / "e"), {"knn_eval": {"k": 3}})
    facts, text = card_of(tmp_path / "e")
    assert facts["results"] == {"knn_eval": {"k": 3}} and facts["trained_on"] == "x"
    assert "**k**: 3" in text and "load_model" in text
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        refresh_card(str(tmp_path / "e"), {"knn_eval": {"k": object()}})
    assert contents(tmp_path) == before
    refresh_card(str(tmp_path / "no export"), {"knn_eval": {"k": 3}})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("card", ["[]", "{", '{"encoder": 1}', '{"encoder": 1, "left_out": 3}'])
def test_a_damaged_card_is_named(card, tmp_path):
    (tmp_path / "card.json").write_text(card)
    with pytest.raises(UserError, match=r"card.json is damaged .*--mode=export writes a new one"):
        refresh_card(str(tmp_path), {})
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_a_card_of_an_earlier_version_is_refreshed(tmp_path):
    export_encoder(small_encoder(), tmp_path)
    facts, _ = card_of(tmp_path)
    del facts["formats"]
    (tmp_path / "card.json").write_text(json.dumps({**facts, "left_out": {"encoder.keras": "why"}}))
    refresh_card(str(tmp_path), {"knn_eval": {"k": 3}})
    text = card_of(tmp_path)[1].split("## Use")[1]
    assert "KerasLayer" in text and "keras was not written" in text
