"""The export is a list of formats over one folder that is replaced at once."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import pytest
import tensorflow as tf

from tests.exported import contents, small_encoder
from tf_simclr.errors import UserError
from tf_simclr.export import export_encoder, formats, load_encoder, refresh_card, saved_model
from tf_simclr.export.exportable import exportable
from tf_simclr.export.formats import Format


def write_toy(found, folder):
    (pathlib.Path(folder) / "toy.txt").write_text(str(found.embedding_dim))
    return {"toy_opset": 17}


def fail(found, folder):
    (pathlib.Path(folder) / "half").mkdir()
    (pathlib.Path(folder) / "half" / "file").write_text("")
    raise ValueError("no such operator")


def run_missing_program(found, folder):
    subprocess.run(["no-such-converter"], check=True)


def add(monkeypatch, **fields):
    form = Format(**{"name": "toy", "files": ("toy.txt",), "write": write_toy, **fields})
    monkeypatch.setattr(formats, "FORMATS", [*formats.FORMATS, form])
    monkeypatch.setattr("tf_simclr.export.card.FORMATS", formats.FORMATS)


def card_of(folder):
    return json.loads((folder / "card.json").read_text()), (folder / "card.md").read_text()


def test_a_format_is_one_function_and_one_entry(tmp_path, monkeypatch):
    add(monkeypatch, use="toy = open('this/folder/toy.txt')")
    export_encoder(small_encoder(), tmp_path / "e")
    assert (tmp_path / "e" / "toy.txt").read_text() == "4"
    facts, text = card_of(tmp_path / "e")
    assert facts["formats"]["saved_model"] == ["saved_model.pb", "variables"]
    assert facts["formats"]["encoder.keras"] == ["encoder.keras"]
    assert facts["formats"]["toy"] == ["toy.txt"]
    assert facts["toy_opset"] == 17 and "toy" not in facts["left_out"]
    for line in ("toy = open(", "hub.KerasLayer", "load_model"):
        assert line in text.split("## Use")[1]


BAD = {
    "writing": ({"write": fail}, "ValueError: no such operator"),
    "program": ({"write": run_missing_program}, "FileNotFoundError: .*no-such-converter.*"),
    "missing": ({"files": ("toy.txt", "other")}, "it did not write other."),
    "checking": ({"check": fail}, "ValueError: no such operator"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_format_that_fails_is_left_out_with_the_reason(case, tmp_path, monkeypatch):
    fields, reason = BAD[case]
    add(monkeypatch, **fields)
    export_encoder(small_encoder(), tmp_path / "e")
    facts, text = card_of(tmp_path / "e")
    assert re.fullmatch(reason, facts["left_out"]["toy"]) and "toy" not in facts["formats"]
    assert "toy_opset" not in facts and "There is no toy, see left_out above." in text
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert not names & {"toy.txt", "half"} and {"saved_model.pb", "encoder.keras"} <= names
    load_encoder(tmp_path / "e")


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
    with pytest.raises(UserError, match="cannot be written to .*: toy: No space left"):
        export_encoder(small_encoder(), tmp_path / "e")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff"])
def test_a_saved_model_that_is_not_whole_is_noticed(content, tmp_path):
    with exportable(small_encoder(), None) as found:
        (tmp_path / "saved_model.pb").write_bytes(content)
        with pytest.raises(UserError, match="saved_model.pb (is damaged|lacks the signatures)"):
            saved_model.check(found, str(tmp_path))


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
    assert "hub.KerasLayer" in text and "There is no encoder.keras" in text
