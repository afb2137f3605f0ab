"""--mode=duplicates and --exclude_list, from the command line."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.command_line import parse
from tests.features import small_encoder
from tests.small_runs import run
from tf_simclr import tasks
from tf_simclr.config import Config
from tf_simclr.errors import UserError

ODD = "<b>'\"\n\udcff.png"  # A tag, quotes, a line break and a byte that is not UTF-8.


def start(*arguments):
    tasks.run(parse("--mode=duplicates", *arguments), tf.distribute.OneDeviceStrategy("/cpu:0"))


def save(folder, name, image):
    os.makedirs(os.fsencode(folder), exist_ok=True)
    with open(os.path.join(os.fsencode(folder), os.fsencode(name)), "wb") as file:
        file.write(tf.io.encode_png(image).numpy())


@pytest.fixture
def photos(tmp_path):
    """Six images of smooth colours, one of them also mirrored and one also under an odd name."""
    draws = np.random.default_rng(0)
    images = [
        tf.cast(tf.image.resize(draws.integers(0, 256, [6, 6, 3]), [24, 24], "bicubic"), tf.int32)
        for _ in range(6)
    ]
    images = [np.clip(image.numpy(), 0, 255).astype(np.uint8) for image in images]
    for i, image in enumerate(images):
        save(tmp_path / "photos", f"{i}.png", image)
    save(tmp_path / "photos", "mirrored.png", images[2][:, ::-1])
    save(tmp_path / "photos", ODD, images[4])
    save(tmp_path / "others", "new.png", 255 - images[0])
    save(tmp_path / "others", "known.png", images[3])
    return tmp_path / "photos"


def read(folder):
    with open(folder / "duplicates.csv", newline="") as file:
        table = list(csv.DictReader(file))
    listed = [json.loads(line) for line in open(folder / "exclude.jsonl", encoding="ascii")]
    facts = json.loads((folder / "duplicates.json").read_text())
    return table, listed, facts, (folder / "duplicates.html").read_text()


def test_finds_copies_and_leaks_without_an_encoder(photos, tmp_path, capsys):
    others = f"--eval_dataset={tmp_path}/others"
    start(f"--dataset={photos}/", f"--duplicates_dir={tmp_path}/found", others)
    assert "no encoder" in capsys.readouterr().out
    table, listed, facts, page = read(tmp_path / "found")
    shown = "<b>'\"\\n\\udcff.png"
    rows = [(r["group"], r["kind"], os.path.basename(r["path"])) for r in table]
    assert rows == [
        ("1", "kept", "2.png"),
        ("1", "mirrored", "mirrored.png"),
        ("2", "kept", "4.png"),
        ("2", "bytes", shown),
        ("leak", "bytes", "known.png"),
    ]
    assert {entry["path"] for entry in listed} == {"mirrored.png", ODD, "3.png"}
    assert [entry["path"] for entry in listed if entry.get("leaks")] == ["3.png"]
    assert facts["copies"] == {k: int(k in ("bytes", "mirrored")) for k in facts["copies"]}
    assert facts["leaks"]["bytes"] == sum(facts["leaks"].values()) == 1
    assert facts["encoder"] is None and "outliers" not in facts
    assert "<b>'" not in page and "&lt;b&gt;&#x27;&quot;\\n\\udcff.png" in page
    assert page.count("<img") == 6 and "http" not in page and "width=device-width" in page


def test_an_encoder_adds_outliers(photos, tmp_path):
    encoder = small_encoder()
    encoder.save(str(tmp_path / "encoder.keras"))
    where = (f"--workdir={tmp_path}/run", f"--init_from={tmp_path}/encoder.keras")
    start(*where, f"--dataset={photos}/", "--image_size=8", "--outliers=2", "--channels=1")
    _, listed, facts, page = read(tmp_path / "run" / "duplicates")
    assert len(facts["outliers"]) == 2 and facts["typical_distance"] > 0
    assert facts["encoder"].endswith("encoder.keras") and "Outliers" in page
    assert {"mirrored.png", ODD} <= {entry["path"] for entry in listed}


def test_bad_images_stop_it_or_are_left_out(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG not an image")
    (photos / "empty.png").write_bytes(b"")
    arguments = (f"--dataset={photos}/", f"--duplicates_dir={tmp_path}/found")
    with pytest.raises(UserError, match="cannot be decoded"):
        start(*arguments)
    start(*arguments, "--skip_bad_images")
    table, _, facts, _ = read(tmp_path / "found")
    assert facts["bad_images"] == 2 and len(table) == 4


def test_it_needs_a_place_to_write_to():
    with pytest.raises(UserError, match="needs --duplicates_dir or --workdir"):
        Config(mode="duplicates")


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_a_run_keeps_its_list(photos, tmp_path, capsys, caplog):
    start(f"--dataset={photos}/", f"--duplicates_dir={tmp_path}/found")
    path = tmp_path / "found" / "exclude.jsonl"
    settings = {
        "dataset": "folder",
        "data_dir": str(photos),
        "channels": 1,
        "train_batch_size": 2,
        "exclude_list": str(path),
    }
    capsys.readouterr()
    tasks.run(
        Config(mode="doctor", image_size=8, encoder="resnet10", width_multiplier=0.125, **settings),
        tf.distribute.OneDeviceStrategy("/cpu:0"),
    )
    said = capsys.readouterr().out
    assert f"left out    2 images, which --exclude_list={path} names\n" in said
    assert "copies      no exact copies found\n" in said
    with caplog.at_level("WARNING"):
        run(tmp_path / "run", train_steps=2, **settings)
    assert "exact copies" not in caplog.text
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n")
    with pytest.raises(UserError, match="--exclude_list names others"):
        run(tmp_path / "run", train_steps=2, **settings)
    with pytest.raises(UserError, match="--exclude_list was"):
        run(tmp_path / "run", train_steps=2, **{**settings, "exclude_list": ""})


@pytest.mark.usefixtures("tiny_encoder", "no_export")
def test_pretraining_warns_of_exact_copies(photos, tmp_path, caplog):
    (photos / "again.png").write_bytes((photos / "4.png").read_bytes())
    with caplog.at_level("WARNING"):
        data = {"dataset": "folder", "data_dir": str(photos), "channels": 1}
        run(tmp_path / "run", train_batch_size=2, train_steps=1, **data)
    assert "2 of 9 files are exact copies of others; --mode=duplicates lists them." in caplog.text
