"""The report: complete, self-contained, escaped, and written from whatever files exist."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.report.filled import fill
from tf_simclr.report import view_grid, write_report


def test_the_page_holds_everything_and_loads_nothing(tmp_path):
    fill(tmp_path)
    page = open(write_report(str(tmp_path))).read()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)='?https?:", page)
    assert "50.0%" in page and "75.0%" in page and "all labels" in page


def test_the_levels_of_the_loss_are_explained(tmp_path):
    fill(tmp_path)
    page = open(write_report(str(tmp_path))).read()
    assert "starts near 6.789" in page and "Chance, 6.236," in page
    assert "had a loss of 4.000 at step 1 and of 2.000 at step 3" in page


def test_a_run_of_an_earlier_version_has_no_untrained_level(tmp_path):
    fill(tmp_path)
    text = re.sub(r', "untrained_level": [\d.]+', "", (tmp_path / "metrics.jsonl").read_text())
    (tmp_path / "metrics.jsonl").write_text(text)
    page = open(write_report(str(tmp_path))).read()
    assert "starts near" not in page and "Chance, 6.236," in page


@pytest.mark.parametrize(("draws", "shown"), [(1, False), (2, True), (20, True)])
def test_a_single_draw_has_no_spread(draws, shown, tmp_path):
    fill(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    for row in result["linear_eval"]["few_label"]:
        row.update(draws=draws, std=0.0)
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert ("± 0.0%" in open(write_report(str(tmp_path))).read()) == shown


def test_what_comes_from_outside_is_escaped(tmp_path):
    fill(tmp_path)
    page = open(write_report(str(tmp_path))).read()
    assert "<b>mine" not in page and "<i>pixels" not in page and "<script" not in page
    assert "&lt;b&gt;mine" in page and "&lt;i&gt;pixels" in page


def test_an_empty_workdir_has_a_page_too(tmp_path):
    assert "not trained yet" in open(write_report(str(tmp_path))).read()


def test_view_grid_puts_the_views_of_an_image_one_above_the_other(tmp_path):
    views = np.zeros([3, 2, 16, 16, 1])
    views[1, 0] = 1.0
    view_grid(str(tmp_path / "grid.png"), views)
    grid = tf.io.decode_png((tmp_path / "grid.png").read_bytes()).numpy()[..., 0]
    tile = grid.shape[0] // 2
    middle = grid[tile // 2 :: tile, tile // 2 :: tile]
    np.testing.assert_array_equal(middle, [[0, 255, 0], [0, 0, 0]])
