"""A run in its workdir: which folder is free, what a longer run does, what is kept of numbers."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.small_runs import SMALL, lines, run, tiny_encoder
from tf_simclr import storage
from tf_simclr.config import Config
from tf_simclr.errors import UserError
from tf_simclr.optim.schedules import WarmupCosine
from tf_simclr.tasks import build, inputs
from tf_simclr.workdir import Workdir, read_metrics, read_results


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "pretrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "encoder_of", tiny_encoder)
        run(workdir, train_steps=4)
    return workdir


@pytest.fixture
def pretrained(four_steps, tiny_encoder, tmp_path):
    return shutil.copytree(four_steps, tmp_path / "pretrained")


def identity(**settings):
    return build.identity_of(Config(workdir="w", **{**SMALL, **settings}))


@pytest.mark.parametrize("left", ["views.png", "metrics.jsonl", "tensorboard", "checkpoints"])
def test_a_start_that_saved_nothing_blocks_nothing(left, tmp_path):
    workdir = Workdir(str(tmp_path))
    workdir.write_settings(identity())
    path = tmp_path / left
    path.write_text("") if "." in left else path.mkdir()
    workdir.check_is_of(identity(temperature=0.5, encoder="resnet50"))


@pytest.mark.parametrize("made", ["encoder", "results", "checkpoints/ckpt-2.index", "result.json"])
def test_what_a_run_has_made_is_not_overwritten_by_another(made, tmp_path):
    workdir = Workdir(str(tmp_path))
    workdir.write_settings(identity())
    path = tmp_path / made
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}") if "." in made else path.mkdir()
    workdir.check_is_of(identity())
    with pytest.raises(UserError, match=r"holds another run: --temperature was 0.1, is 0.5\. Use"):
        workdir.check_is_of(identity(temperature=0.5))
    workdir.check_is_of(identity(temperature=0.5), allow_changes=True)


def test_a_longer_run_is_asked_for_and_has_the_schedule_of_its_length(pretrained):
    with pytest.raises(UserError, match="--train_steps was 4, is 6.* schedule of the new length"):
        run(pretrained, train_steps=6)
    run(pretrained, train_steps=6, allow_changes=True)
    assert [line["step"] for line in lines(pretrained)] == [2, 4, 6]
    schedule = WarmupCosine(0.3 * 32 / 256, round(0.05 * 1297 / 32), 6)
    assert lines(pretrained)[-1]["learning_rate"] == pytest.approx(float(schedule(5)))


def test_every_mode_has_a_file_of_results_and_the_old_file_is_read_too(tmp_path):
    workdir = Workdir(str(tmp_path))
    (tmp_path / "result.json").write_text('{"pretrain": {"step": 1}, "knn_eval": {"k": 5}}')
    workdir.keep_result("pretrain", {"step": 9})
    assert json.loads((tmp_path / "results" / "pretrain.json").read_text()) == {"step": 9}
    assert read_results(str(tmp_path)) == {"pretrain": {"step": 9}, "knn_eval": {"k": 5}}
    Workdir(str(tmp_path), writes=False).keep_result("pretrain", {"step": 0})
    assert workdir.results()["pretrain"] == {"step": 9}


@pytest.mark.parametrize("content", ["[1]", "{", "", '"x"'])
@pytest.mark.parametrize("name", ["result.json", "results/knn_eval.json"])
def test_damaged_results_are_named(name, content, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=f"{name} is not a JSON object of results; restore it"):
        Workdir(str(tmp_path)).check_is_of(identity())


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(str(tmp_path)) == [{"step": 1, "loss": 2.0}]


def test_an_evaluation_reaches_the_card_and_the_report(pretrained, tmp_path):
    def card(workdir):
        text = (workdir / "encoder" / "card.md").read_text()
        return json.loads((workdir / "encoder" / "card.json").read_text())["results"], text

    before, _ = card(pretrained)
    assert "knn_eval" not in before and before["pretrain"]["step"] == 4
    run(pretrained, mode="knn_eval", knn_k=5, baselines=False)
    results, text = card(pretrained)
    assert results["knn_eval"]["k"] == 5 and results["pretrain"] == before["pretrain"]
    assert "knn_eval" in text and "(k = 5)" in (pretrained / "report.html").read_text()
    # Numbers of another encoder do not belong on this one's card.
    run(tmp_path / "w", mode="export", init_from=str(pretrained))
    run(tmp_path / "w", mode="knn_eval", init_from=str(pretrained), knn_k=7, baselines=False)
    assert "knn_eval" not in card(tmp_path / "w")[0]
    assert "(k = 7)" in (tmp_path / "w" / "report.html").read_text()


def test_without_a_workdir_no_listing_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "read_bytes", lambda _: pytest.fail("a listing was read"))
    config = Config(mode="doctor", dataset="folder", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="no image"):
        inputs.source_of(config, "train")


@pytest.mark.parametrize(("layers", "width"), [(0, 64), (1, 16), (3, 16)])
def test_without_a_head_the_embedding_is_the_representation(layers, width):
    config = Config(workdir="w", **{**SMALL, "num_proj_layers": layers})
    assert build.embedding_dim(config, build.encoder_of(config, 1)) == width
