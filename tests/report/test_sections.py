"""The report's sections: an additional one, a damaged one, and one of an unknown mode."""

from __future__ import annotations

import html.parser
import json
import pathlib

import numpy as np
import pytest

from tests.report.filled import fill
from tf_simclr.errors import UserError
from tf_simclr.report import page, pictures, write_report
from tf_simclr.report.page import Section


def written(folder) -> str:
    return pathlib.Path(write_report(str(folder))).read_text("utf-8")


def keep(folder, mode, numbers):
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f"{mode}.json").write_text(json.dumps(numbers))


def test_a_section_is_one_function_and_one_entry(tmp_path, monkeypatch):
    def toy(run):
        found = run.result("toy")
        return f"<p>toy says {found['value']:.1f}</p>" if found else None

    monkeypatch.setattr(page, "SECTIONS", [*page.SECTIONS, Section("A & B", toy, ("toy",))])
    fill(tmp_path)
    assert "A &amp; B" not in written(tmp_path)
    keep(tmp_path, "toy", {"value": 2.5})
    assert "<h2>A &amp; B</h2><p>toy says 2.5</p>" in written(tmp_path)
    assert "Other results" not in written(tmp_path)


def test_results_of_a_mode_without_a_section_are_shown_by_name(tmp_path):
    keep(tmp_path, "<future>", {"recall": {"at <1>": 0.123456}, "k": [1, 5], "list": [0] * 99})
    shown = written(tmp_path)
    assert "<h3>&lt;future&gt;</h3>" in shown
    assert "<td>recall / at &lt;1&gt;</td><td>0.1235</td>" in shown
    assert "<td>k</td><td>1, 5</td>" in shown and "0, ...</td>" in shown


def test_the_results_of_the_known_modes_are_not_shown_twice(tmp_path):
    fill(tmp_path)
    keep(tmp_path, "finetune", {"top1": 0.625, "images": 8})
    keep(tmp_path, "pretrain", {"loss": 1.0})
    shown = written(tmp_path)
    assert "Other results" not in shown
    assert "top-1 62.5% of 8 images" in shown


def test_numbers_of_another_encoder_say_so(tmp_path):
    keep(tmp_path, "knn_eval", {"k": 5, "top1": {"trained": 0.75}, "init_from": "other/<run>"})
    assert "This is the encoder from other/&lt;run&gt;." in written(tmp_path)


DAMAGE = {
    "results/knn_eval.json": b'{"top1": {"trained": "x"}}',
    "results/linear_eval.json": b'{"few_label": [{"features": "x"}]}',
    "results/finetune.json": b'{"images": 3}',
    "results/future.json": b"[1, 2]",
    "result.json": b'{"knn_eval": 3}',
    "metrics.jsonl": b'{"step": 1, "loss": "much"}\n',
    "views.png": b"GIF89a",
    "embeddings.npz": b"PK\x03\x04 cut",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_and_the_earlier_page_stays(name, tmp_path):
    (tmp_path / "report.html").write_text("earlier")
    (tmp_path / "results").mkdir()
    (tmp_path / name).write_bytes(DAMAGE[name])
    with pytest.raises(UserError) as error:
        write_report(str(tmp_path))
    assert str(error.value).startswith(str(tmp_path / name)) and "remove it" in str(error.value)
    assert (tmp_path / "report.html").read_text() == "earlier"


class Wide(html.parser.HTMLParser):
    """Collects tables and images that are not in a scrolling box."""

    def __init__(self):
        super().__init__()
        self.depth, self.loose, self.held = 0, [], 0

    def handle_starttag(self, tag, attributes):
        if tag == "div":
            assert dict(attributes) == {"class": "wide"}
            self.depth += 1
        elif tag in ("table", "img"):
            self.held += self.depth > 0
            self.loose += [tag] if not self.depth else []

    def handle_endtag(self, tag):
        self.depth -= tag == "div"


def test_what_is_wide_scrolls_or_wraps_by_itself(tmp_path):
    fill(tmp_path)
    keep(tmp_path, "future", {"a": 1})
    shown = written(tmp_path)
    found = Wide()
    found.feed(shown)
    assert not found.loose and found.held == 6
    style = shown.split("<style>")[1].split("</style>")[0]
    assert "div.wide { overflow-x: auto; }" in style
    assert "white-space: pre-wrap" in style and "columns: 2 20rem" in style  # One on a phone.
    assert "width=device-width" in shown


@pytest.fixture
def drawn(monkeypatch):
    figures, png = [], pictures._png
    monkeypatch.setattr(pictures, "_png", lambda figure: figures.append(figure) or png(figure))
    return figures


def plotted(figure):
    return {line.get_label(): line for ax in figure.axes for line in ax.get_lines()}


def test_a_metric_of_some_lines_only_is_connected(drawn):
    lines = [{"step": s, "loss": 9.0 - s, "knn_top1": float("nan")} for s in range(1, 7)]
    del lines[5]["knn_top1"]
    lines[1]["knn_top1"], lines[4]["knn_top1"] = 0.25, 0.5
    pictures.curves(lines)
    knn = plotted(drawn[0])["kNN top-1 on the evaluation split"]
    np.testing.assert_array_equal(knn.get_xydata(), [[2, 0.25], [5, 0.5]])
    assert knn.get_marker() == "o" and knn.get_linestyle() == "-"
    loss = plotted(drawn[0])["loss"]
    assert len(loss.get_xydata()) == 6 and loss.get_marker() == ""


def test_a_curve_is_one_line_of_the_table(drawn, monkeypatch):
    toy = pictures.Curve(2, "toy", "a toy", pictures.GREY)
    monkeypatch.setattr(pictures, "CURVES", [*pictures.CURVES, toy])
    pictures.curves([{"step": 1, "toy": 3.0}, {"step": 2, "toy": 4.0}])
    assert set(plotted(drawn[0])) == {"a toy"}
    assert drawn[0].axes[2].get_lines()[0].get_color() == pictures.GREY
