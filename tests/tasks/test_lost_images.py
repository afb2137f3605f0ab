"""Images are lost or damaged during a run: following the message completes the run."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.small_runs import lines, run
from tf_simclr.data.bad_images import READ_ERRORS, naming_bad_images
from tf_simclr.data.sources import in_memory, open_source
from tf_simclr.errors import UserError
from tf_simclr.workdir import Workdir

pytestmark = pytest.mark.usefixtures("tiny_encoder", "no_export")

COUNT = 40
SETTINGS = {
    "dataset": "folder",
    "channels": 1,
    "cache": "off",
    "train_batch_size": 8,
    "train_steps": 48,
    "checkpoint_steps": 5,
    "warmup_epochs": 0.5,
    "log_steps": 1,
    "on_trouble": "warn",
}


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        image = rng.integers(0, 256, [10, 12, 3], np.uint8)
        (root / f"{i:02d}.png").write_bytes(tf.io.encode_png(image).numpy())
    return root


def broken_run(workdir, photos, monkeypatch, harm):
    """Runs until the damage done at step 7 stops it; returns the message."""
    with monkeypatch.context() as patch:
        log = Workdir.log_metrics

        def log_metrics(self, metrics):
            log(self, metrics)
            if metrics["step"] == 7:
                harm()

        patch.setattr(Workdir, "log_metrics", log_metrics)
        with pytest.raises(UserError) as error:
            run(workdir, data_dir=str(photos), **SETTINGS)
    assert 7 <= lines(workdir)[-1]["step"] < 48
    return str(error.value)


def assert_resumes(workdir, photos, **more):
    run(workdir, data_dir=str(photos), **SETTINGS, **more)
    steps = [line["step"] for line in lines(workdir)]
    assert steps == list(range(1, 49))


def test_missing_files(tmp_path, photos, monkeypatch):
    away = tmp_path / "away"
    away.mkdir()

    def harm():
        for name in ("03.png", "17.png"):
            shutil.move(photos / name, away / name)

    said = broken_run(tmp_path / "w", photos, monkeypatch, harm)
    assert "2 of 40 files are missing since the run started" in said and "03.png" in said
    assert "Restore them" in said and "pass --allow_changes" in said
    assert "cannot be decoded" not in said and "skip_bad_images" not in said
    shutil.copytree(tmp_path / "w", tmp_path / "v")
    with pytest.raises(UserError, match="files were added, removed or changed.*--allow_changes"):
        run(tmp_path / "v", data_dir=str(photos), **SETTINGS)
    assert_resumes(tmp_path / "v", photos, allow_changes=True)
    for path in away.iterdir():
        shutil.move(path, photos / path.name)
    assert_resumes(tmp_path / "w", photos)


def test_damaged_files(tmp_path, photos, monkeypatch):
    whole = (photos / "05.png").read_bytes()
    said = broken_run(
        tmp_path / "w", photos, monkeypatch, lambda: (photos / "05.png").write_bytes(whole[:60])
    )
    assert "1 of 40 files cannot be decoded" in said and "05.png" in said
    assert "Remove them, or pass --skip_bad_images" in said and "add --allow_changes" in said
    assert "are missing" not in said
    shutil.copytree(tmp_path / "w", tmp_path / "v")
    assert_resumes(tmp_path / "v", photos, skip_bad_images=True, allow_changes=True)
    (photos / "05.png").unlink()
    assert_resumes(tmp_path / "w", photos, allow_changes=True)


def test_the_whole_folder(tmp_path, photos, monkeypatch):
    away = tmp_path / "away"

    def harm():
        photos.rename(away)
        photos.mkdir()  # As an unmounted disk leaves it.

    said = broken_run(tmp_path / "w", photos, monkeypatch, harm)
    assert f"no image of the folder {str(photos)!r} can be found any more" in said
    assert "00.png" not in said and "skip_bad_images" not in said
    photos.rmdir()
    away.rename(photos)
    assert_resumes(tmp_path / "w", photos)


def explained(source):
    with pytest.raises(UserError) as error, naming_bad_images(source):
        list(tf.data.Dataset.range(source.num_examples).map(source.load))
    return str(error.value)


def test_missing_and_damaged_are_said_apart(photos):
    source = open_source("folder", str(photos))
    (photos / "01.png").unlink()
    (photos / "02.png").write_bytes(b"no image")
    said = explained(source)
    assert "1 of 40 files are missing since the run started: " in said.split("02.png")[0]
    assert "1 of 40 files cannot be decoded" in said.split("01.png")[1]


def test_missing_files_of_a_set_to_be_reduced(photos):
    source = open_source("folder", str(photos))
    (photos / "01.png").unlink()
    with pytest.raises(UserError, match="1 of 40 files are missing since.*01.png"):
        in_memory(source, shorter_side=4)
    shutil.rmtree(photos)
    with pytest.raises(UserError, match="can be found any more"):
        in_memory(source, shorter_side=4)


def test_a_folder_in_the_place_of_a_file(photos):
    source = open_source("folder", str(photos))
    (photos / "01.png").unlink()
    (photos / "01.png").mkdir()
    assert "1 of 40 files cannot be decoded" in explained(source)


@pytest.mark.parametrize("harm", [lambda root: shutil.rmtree(root), lambda root: root.rename("x")])
def test_a_folder_that_went_away(photos, harm, monkeypatch):
    monkeypatch.chdir(photos.parent)
    source = open_source("folder", str(photos))
    harm(photos)
    assert "can be found any more" in explained(source)
    assert "can be found any more" in explained(source.take(np.arange(3)))


@pytest.mark.parametrize("kind", READ_ERRORS[3:])
def test_errors_of_other_parts_stay_what_they_are(photos, kind):
    source = open_source("folder", str(photos))
    (photos / "01.png").unlink()
    error = kind(None, None, "the device is busy")
    with pytest.raises(kind), naming_bad_images(source):
        raise error
    error = kind(None, None, "01.png; Input/output error [[{{node ReadFile}}]]")
    with pytest.raises(UserError, match="are missing"), naming_bad_images(source):
        raise error
