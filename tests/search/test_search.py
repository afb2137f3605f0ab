"""Search: equal to brute force in float64, and whatever is shown is text."""

from __future__ import annotations

import base64
import html.parser
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tests.features import small_encoder
from tf_simclr import search, tasks
from tf_simclr.config import Config
from tf_simclr.data.sources import array_source
from tf_simclr.embeddings import Rows, Table, open_table, table, write_table
from tf_simclr.errors import UserError

D = 12


def made(folder, h, rows_per_part=50, paths=None):
    """A table of given vectors."""
    facts = {"version": table.VERSION, "kind": "parquet", "encoder": "e" * 16, "source": "s" * 16}
    facts.update(D=h.shape[1], N=len(h), rows_per_part=rows_per_part, image_size=8, channels=1)
    folder.mkdir()
    table.write_facts(str(folder), facts)
    paths = [f"/photos/{i}.jpg" for i in range(len(h))] if paths is None else paths
    for number in range(table.num_parts(facts)):
        part = slice(*table.rows_of(facts, number))
        sizes = np.ones([len(h[part]), 2], np.int32)
        rows = Rows(h[part], paths[part], sizes)
        table.write_part(str(folder), facts, number, rows, bad=[], stamp=None)
    return open_table(str(folder))


def brute_force(queries, keys, k):
    """Cosine similarities in float64, most similar first, equal ones by row."""
    queries, keys = queries.astype(np.float64), keys.astype(np.float64)
    norms = np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(keys, axis=1))
    similarity = np.einsum("md,nd->mn", queries, keys) / np.maximum(norms, 1e-12)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


@pytest.mark.parametrize("k", [1, 10, 49, 230, 1000])
@pytest.mark.parametrize("count", [1, 7])
def test_exact_is_brute_force_in_float64(k, count, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    keys = rng.normal(size=[230, D]).astype(np.float32) * rng.uniform(0.1, 9, [230, 1])
    keys = keys.astype(np.float32)
    queries = rng.normal(size=[count, D]).astype(np.float32)
    monkeypatch.setattr(search.backends, "_QUERIES", 3)
    monkeypatch.setattr(search.backends, "_NUMBERS", 100)
    rows, values = search.exact(queries, made(tmp_path / "t", keys), k)
    expected_rows, expected_values = brute_force(queries, keys, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(values, expected_values, rtol=0, atol=1e-12)


def test_near_ties_are_told_apart_and_equal_rows_come_in_order(tmp_path):
    rng = np.random.default_rng(0)
    query = rng.normal(size=[1, 512]).astype(np.float32)
    noise = rng.normal(size=[200, 512])
    keys = (query + 1e-4 * noise).astype(np.float32)  # Similarities differ by about 1e-9.
    keys = np.concatenate([keys, np.repeat(keys[:1], 1000, axis=0)])
    rows, values = search.exact(query, made(tmp_path / "t", keys, rows_per_part=64), 300)
    expected_rows, expected_values = brute_force(query, keys, 300)
    np.testing.assert_allclose(values, expected_values, rtol=0, atol=1e-12)
    assert set(rows[0][:20]) == set(expected_rows[0][:20])
    same = rows[0][np.isin(rows[0], [0, *range(200, 1200)])]
    assert len(same) > 100 and (np.diff(same) > 0).all() and same[0] == 0


def test_zeros_are_similar_to_nothing(tmp_path):
    keys = np.eye(D, dtype=np.float32)
    keys[3] = 0
    found = made(tmp_path / "t", keys)
    _, values = search.exact(np.zeros([1, D], np.float32), found, 2)
    np.testing.assert_array_equal(values, np.zeros([1, 2]))
    rows, values = search.exact(-keys[:1], found, D)
    assert rows[0, -1] == 0 and values[0, -1] == -1 and (values[0, :-1] == 0).all()


def test_faiss_is_near_exact_and_keeps_its_index(tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=[20, D])
    keys = np.repeat(centres, 100, axis=0) + 0.1 * rng.normal(size=[2000, D])
    keys = keys.astype(np.float32)
    found = made(tmp_path / "t", keys, rows_per_part=300)
    rows, values = search.faiss(keys[:50], found, 5, str(tmp_path / "s"))
    expected, expected_values = search.exact(keys[:50], found, 5)
    shared = [len(set(a) & set(b)) for a, b in zip(rows, expected)]
    assert np.mean(shared) > 4.5
    same = rows == expected
    np.testing.assert_allclose(values[same], expected_values[same], atol=1e-5)
    path = tmp_path / "s" / "index.faiss"
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])  # Damaged: made again.
    again, _ = search.faiss(keys[:50], found, 5, str(tmp_path / "s"))
    np.testing.assert_array_equal(again, rows)
    assert path.read_bytes() == kept


def test_no_faiss_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    found = made(tmp_path / "t", np.eye(D, dtype=np.float32))
    with pytest.raises(UserError, match=r"pip install 'tf_simclr\[search\]'"):
        search.faiss(np.ones([1, D], np.float32), found, 1)


def test_auto_is_exact_for_a_million_and_where_there_is_no_faiss(monkeypatch):
    few, many = (Table("t", {}, (count,)) for count in (1_000_000, 1_000_001))
    for there in (None, object()):
        monkeypatch.setattr(search.backends.importlib.util, "find_spec", lambda _, x=there: x)
        assert search.resolve("auto", few) == "exact"
        assert search.resolve("auto", many) == ("faiss" if there else "exact")
        assert search.resolve("exact", many) == "exact"


HOSTILE = [
    *("<img src=x onerror=alert(1)>.png", "a&amp;'\".png", "line\nbreak.png", "plain.png"),
    os.fsdecode(b"caf\xe9.png"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos/, an encoder and the table of the photos."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in HOSTILE:
        pixels = rng.integers(0, 256, [9, 14, 1], np.uint8)
        (folder / "photos" / name).write_bytes(tf.io.encode_png(pixels).numpy())
    tf.keras.utils.set_random_seed(1)
    small_encoder().save(folder / "encoder.keras")
    run(folder, "embed", init_from=True, dataset="folder", data_dir=str(folder / "photos"))
    return folder


def run(folder, mode, init_from=False, **settings):
    if init_from:
        settings["init_from"] = str(folder / "encoder.keras")
    settings = {"image_size": 8, "channels": 1, "eval_batch_size": 4, **settings}
    config = Config(mode=mode, **{"table": str(folder / "table"), **settings})
    tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))


class Page(html.parser.HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.images, self.tags, self.text = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.text.append(data)


def test_a_folder_of_queries_is_answered_in_three_ways(place, capsys, tmp_path):
    out = str(tmp_path / "out")
    query = {"query": str(place / "photos"), "search_dir": out, "neighbors": 3}
    run(place, "search", init_from=True, **query)
    said = capsys.readouterr().out
    assert said.isascii() or all(line.isprintable() for line in said.splitlines())
    assert len(said.splitlines()) == 5 * 4 and "line\\nbreak.png" in said

    found = json.loads((tmp_path / "out" / "nearest.json").read_text(encoding="ascii"))
    assert found["backend"] == "exact" and len(found["queries"]) == 5
    for one in found["queries"]:
        first = one["matches"][0]  # An image is nearest to itself.
        assert first["path"] == one["path"] and first["similarity"] == 1.0
        similarities = [match["similarity"] for match in one["matches"]]
        assert similarities == sorted(similarities, reverse=True)
    exact = {bytes.fromhex(one["path_bytes"]) for one in found["queries"] if "path_bytes" in one}
    assert exact == {os.fsencode(str(place / "photos" / HOSTILE[-1]))}

    text = (tmp_path / "out" / "nearest.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 5 * 4
    assert not page.tags & {"script", "link", "iframe", "a"} and "url(" not in text
    for image in page.images:
        assert set(image) == {"alt", "src"}
        assert image["src"].startswith("data:image/jpeg;base64,")
    small = tf.io.decode_jpeg(base64.b64decode(page.images[0]["src"].split(",")[1]))
    assert small.shape == (9, 14, 3)
    shown = "".join(page.text)
    assert "<img src=x onerror=alert(1)>.png" in shown and "caf\\xe9.png" in shown
    assert "width=device-width" in text


def test_a_path_in_the_table_needs_no_encoder(place, capsys, tmp_path):
    query = str(place / "photos" / "line\\nbreak.png")  # As it is shown.
    run(place, "search", query=query, search_dir=str(tmp_path))
    found = json.loads((tmp_path / "nearest.json").read_text())["queries"][0]
    assert found["path"].endswith("line\nbreak.png")
    assert len(found["matches"]) == 4  # All but itself.
    assert found["path"] not in [match["path"] for match in found["matches"]]


def test_an_image_as_query(place, capsys, tmp_path):
    image = tmp_path / "copy.png"
    image.write_bytes((place / "photos" / "plain.png").read_bytes())
    run(place, "search", init_from=True, query=str(image), search_dir=str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "nearest.json").read_text())["queries"][0]
    assert found["path"] == str(image) and found["matches"][0]["path"].endswith("plain.png")
    with pytest.raises(UserError, match="pass --init_from or --workdir"):
        run(place, "search", query=str(image))


def test_bad_queries_are_refused(place, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    for query, said in (
        ("text.png", "is not an image"),
        ("nothing.png", "neither a path in the table"),
        ("empty", "no image in"),
    ):
        with pytest.raises(UserError, match=said):
            run(place, "search", init_from=True, query=str(tmp_path / query))
    with pytest.raises(UserError, match="is not a table"):
        run(place, "search", query="x", table=str(tmp_path / "empty"))


def test_the_table_of_another_encoder_is_refused(place, tmp_path):
    tf.keras.utils.set_random_seed(2)
    other = small_encoder()
    other.save(tmp_path / "encoder.keras")
    (tmp_path / "q.png").write_bytes((place / "photos" / "plain.png").read_bytes())
    with pytest.raises(UserError, match="is of another encoder: [0-9a-f]{16} with vectors of 12"):
        run(
            tmp_path,
            "search",
            init_from=True,
            query=str(tmp_path / "q.png"),
            table=str(place / "table"),
        )


def test_the_page_shows_some_queries_and_names_without_pictures(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, [6, 8, 8, 1], np.uint8)
    source = array_source(images, np.arange(6) % 2, ["<i>x</i>", "y"], name="<u>set</u>")
    sizes = {"image_size": 8, "batch_size": 4}
    write_table(small_encoder(), source, str(tmp_path / "t"), kind="npy", **sizes)
    found = open_table(str(tmp_path / "t"))
    h = next(found.parts())[1].h
    queries = search.Queries(h, source.names(np.arange(6)), np.full(6, -1))
    monkeypatch.setattr(search.sheet, "MOST_QUERIES", 2)
    answers = search.answers(found, queries, 2, search.exact)
    page = Page(search.contact_sheet(answers, "<b>sub</b>"))
    assert not page.images and not page.tags & {"i", "u"}
    shown = "".join(page.text)
    assert "The first 2 of 6 queries" in shown and shown.count("no picture") == 2 * 3
    assert "<i>x</i>" in shown and "<b>sub</b>" in shown
