"""Tables: whole or absent, the same bytes however they were made, and never another's."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.features import small_encoder
from tests.replicas import mirrored
from tests.small_runs import contents
from tf_simclr import features
from tf_simclr.data.sources import array_source, open_source
from tf_simclr.embeddings import FORMATS, Rows, open_table, table, write_table, writing
from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import plain_copy

N, SIZE, ROWS = 23, 8, 6  # Four parts, the last of five rows.


def images(seed=0, count=N):
    return np.random.default_rng(seed).integers(0, 256, [count, SIZE, SIZE, 1], np.uint8)


SOURCE = array_source(images(), np.arange(N) % 3, ["a", "b", "c"])


@pytest.fixture(scope="module")
def encoder():
    tf.keras.utils.set_random_seed(3)
    return small_encoder()


def write(encoder, folder, source=SOURCE, **options):
    sizes = {"image_size": SIZE, "batch_size": 4, "rows_per_part": ROWS}
    return write_table(encoder, source, str(folder), **{"kind": "parquet", **sizes, **options})


def photos(folder, count=N, seed=0):
    """A folder of grey PNG files of 400 bytes each, in two classes."""
    for i, pixels in enumerate(images(seed, count)):
        path = folder / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(pixels).numpy().ljust(400, b"\0"))
    return folder


def opened(folder, **options):
    return open_source("folder", str(folder), channels=1, **options)


class Killed(BaseException):
    pass


def killed_after(monkeypatch, parts):
    """Ends the process before the record of part number `parts`, whose rows are written."""
    original, written = table.storage.write_whole, []

    def write_whole(path, contents):
        if "/_part-" in path:
            written.append(path)
            if len(written) > parts:
                raise Killed
        original(path, contents)

    monkeypatch.setattr(table.storage, "write_whole", write_whole)


@pytest.mark.parametrize("kind", FORMATS)
def test_holds_every_image_in_order(kind, encoder, tmp_path):
    written = write(encoder, tmp_path / "t", kind=kind)
    assert (written.complete, written.rows, written.bad) == (True, N, 0)
    found = open_table(str(tmp_path / "t"))
    expected = features.represent(encoder, SOURCE, image_size=SIZE, batch_size=4)
    parts = list(found.parts())
    assert len(found) == N and [first for first, _ in parts] == [0, 6, 12, 18]
    h = np.concatenate([rows.h for _, rows in parts])
    assert h.dtype == np.float32
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6)
    assert [p for _, rows in parts for p in rows.paths] == [SOURCE.describe(i) for i in range(N)]
    labels = np.concatenate([rows.labels for _, rows in parts])
    np.testing.assert_array_equal(labels, SOURCE.labels)
    names = [name for _, rows in parts for name in rows.label_names]
    assert names == ["abc"[label] for label in SOURCE.labels]
    assert all((rows.sizes == SIZE).all() for _, rows in parts)
    assert found.facts["encoder"] == features.encoder_fingerprint(encoder)
    assert not os.path.exists(tmp_path / "t.unfinished")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_resumed_has_the_bytes_of_an_unbroken_one(done, kind, encoder, tmp_path, monkeypatch):
    write(encoder, tmp_path / "whole", kind=kind)
    with monkeypatch.context() as patch:
        killed_after(patch, done)
        with pytest.raises(Killed):
            write(encoder, tmp_path / "broken", kind=kind)
    assert not (tmp_path / "broken").exists()
    with pytest.raises(UserError, match=f"unfinished: {done} of 4 parts"):
        open_table(str(tmp_path / "broken"))
    computed = []
    original = writing.table.write_part
    monkeypatch.setattr(
        writing.table, "write_part", lambda *a, **k: computed.append(a[2]) or original(*a, **k)
    )
    write(encoder, tmp_path / "broken", kind=kind)
    assert computed == list(range(done, 4))
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    write(encoder, tmp_path / "broken", kind=kind)  # There already.
    assert computed == list(range(done, 4))


def test_replicas_and_shards_change_no_byte(encoder, tmp_path):
    write(encoder, tmp_path / "whole")
    strategy = mirrored(2)
    with strategy.scope():
        copy = plain_copy(encoder)
    write(copy, tmp_path / "two", strategy=strategy)
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")
    last = [write(encoder, tmp_path / "shards", shard=(i, 3)) for i in (3, 1, 2)]
    assert [found.complete for found in last] == [False, False, True]
    assert [found.rows for found in last] == [6, 11, N]  # Parts 2; 0 and 3; all.
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_shards_of_machines_without_a_common_disk(encoder, tmp_path):
    write(encoder, tmp_path / "whole")
    for i in (1, 2):
        assert not write(encoder, tmp_path / str(i), shard=(i, 2)).complete
    shutil.copytree(tmp_path / "2.unfinished", tmp_path / "1.unfinished", dirs_exist_ok=True)
    assert write(encoder, tmp_path / "1").complete
    assert contents(tmp_path / "1") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_that_is_cut_off_is_refused_or_computed_again(kind, encoder, tmp_path, monkeypatch):
    write(encoder, tmp_path / "whole", kind=kind)
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(Killed):
            write(encoder, tmp_path / "t", kind=kind)
    for folder in ("t.unfinished", "whole"):
        path = tmp_path / folder / ("part-00001" + FORMATS[kind].endings[-1])
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        if folder == "whole":
            with pytest.raises(UserError, match="part-00001.*cut off"):
                list(open_table(str(tmp_path / "whole")).parts())
            path.write_bytes(whole)
    write(encoder, tmp_path / "t", kind=kind)
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"source": array_source(images(1), np.arange(N) % 3, ["a", "b", "c"])}, "images"),
        ({"source": array_source(images(count=9))}, "number of images: 23 there, 9 now"),
        ({"source": array_source(images(), np.arange(N) % 2, ["a", "b", "c"])}, "labels"),
        ({"image_size": 16}, "--image_size: 8 there, 16 now"),
        ({"kind": "npy"}, "--table_format: parquet there, npy now"),
        ({"batch_size": 2}, "--eval_batch_size"),
        ({"encoder": small_encoder}, "the encoder"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_the_table_of_something_else_is_left_alone(
    complete, other, named, encoder, tmp_path, monkeypatch
):
    if complete:
        write(encoder, tmp_path / "t")
    else:
        write(encoder, tmp_path / "t", shard=(1, 2))
    before = contents(tmp_path)
    options = dict(other)
    model = options.pop("encoder", lambda: encoder)()
    with pytest.raises(UserError, match=named):
        write(model, tmp_path / "t", **options)
    assert contents(tmp_path) == before


def test_a_folder_that_is_no_table_is_left_alone(encoder, tmp_path):
    (tmp_path / "t").mkdir()
    write(encoder, tmp_path / "t")  # An empty one is fine.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not a table of embeddings"):
        write(encoder, tmp_path / "mine")
    with pytest.raises(UserError, match="not a table of embeddings"):
        open_table(str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("change", ["added", "removed", "resized", "overwritten"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_folder_that_changes_is_noticed(change, complete, encoder, tmp_path):
    folder = photos(tmp_path / "photos")
    write(encoder, tmp_path / "t", opened(folder), shard=(1, 1 if complete else 2))
    first = folder / "a" / "00.png"
    if change == "added":
        shutil.copy(first, folder / "a" / "zz.png")
    elif change == "removed":
        first.unlink()
    elif change == "resized":
        first.write_bytes(first.read_bytes() + b"\0")
    else:  # Names and sizes stay.
        first.write_bytes((folder / "a" / "02.png").read_bytes())
    if change != "overwritten" or complete:
        before = contents(tmp_path)
        with pytest.raises(UserError, match="changed"):
            write(encoder, tmp_path / "t", opened(folder))
        assert contents(tmp_path) == before
    else:  # Its part is computed again.
        write(encoder, tmp_path / "t", opened(folder))
        write(encoder, tmp_path / "fresh", opened(folder))
        assert contents(tmp_path / "t") == contents(tmp_path / "fresh")


def test_bad_files_stop_it_or_are_listed(encoder, tmp_path):
    folder = photos(tmp_path / "photos")
    for name in ("a/08.png", "b/23.png"):
        (folder / name).write_bytes(b"no image")
    (folder / "a" / "04.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"04.png.*--skip_bad_images"):
        opened(folder)
    source = opened(folder, keep_bad_images=True)
    with pytest.raises(UserError, match=r"08.png.*--skip_bad_images"):
        write(encoder, tmp_path / "t", source)
    written = write(encoder, tmp_path / "t", source, skip_bad_images=True)
    assert (written.complete, written.rows, written.bad) == (True, N - 2, 3)
    paths = [p for _, rows in open_table(str(tmp_path / "t")).parts() for p in rows.paths]
    bad = json.loads((tmp_path / "t" / "_bad_images.json").read_text())["bad_images"]
    assert bad == [str(folder / name) for name in ("a/04.png", "a/08.png", "b/23.png")]
    everything = sorted(map(str, folder.rglob("*.png")))
    assert sorted(paths + bad) == everything and paths == sorted(paths)
    # Each vector is still that of its own image.
    good = source.take(np.flatnonzero([name not in bad for name in everything]))
    expected = features.represent(encoder, good, image_size=SIZE, batch_size=4)
    found = np.concatenate([rows.h for _, rows in open_table(str(tmp_path / "t")).parts()])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_table_needs_an_image(encoder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="x.png"):
        write(encoder, tmp_path / "t", opened(tmp_path / "photos"), skip_bad_images=True)


def test_a_vector_that_is_not_finite_is_a_bad_image(encoder, tmp_path):
    outputs = tf.keras.layers.Dense(12, bias_initializer="ones", name="last")(encoder.output)
    broken = tf.keras.Model(encoder.input, outputs)
    broken.get_layer("last").bias.assign(np.full(12, np.nan))
    with pytest.raises(UserError, match=r"not finite for 6 image\(s\): arrays train, image 0, "):
        write(broken, tmp_path / "t")


HOSTILE = [
    "<b>&\"'.png",
    "line\nbreak.png",
    "comma, tab\t.png",
    "ünï.png",
    os.fsdecode(b"\xff\xfe.png"),
]


@pytest.mark.parametrize("kind", FORMATS)
def test_any_name_survives(kind, encoder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in zip(HOSTILE, images()):
        (folder / name).write_bytes(tf.io.encode_png(pixels).numpy())
    write(encoder, tmp_path / "t", opened(folder), kind=kind)
    paths = [p for _, rows in open_table(str(tmp_path / "t")).parts() for p in rows.paths]
    assert sorted(paths) == sorted(str(folder / name) for name in HOSTILE)


def test_a_thousand_identical_images(encoder, tmp_path):
    source = array_source(np.repeat(images(count=1), 1000, axis=0))
    write(encoder, tmp_path / "t", source, batch_size=128, rows_per_part=256)
    h = np.concatenate([rows.h for _, rows in open_table(str(tmp_path / "t")).parts()])
    assert h.shape == (1000, 12)
    np.testing.assert_allclose(h, h[:1].repeat(1000, axis=0), rtol=1e-6)


def test_a_full_disk_is_reported_and_resumed(encoder, tmp_path, monkeypatch):
    write(encoder, tmp_path / "whole")
    rename = tf.io.gfile.rename
    with monkeypatch.context() as patch:

        def full(old, new, overwrite=False):
            if new.endswith("part-00002.parquet"):
                raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
            rename(old, new, overwrite)

        patch.setattr(table.storage.gfile, "rename", full)
        with pytest.raises(UserError, match=r"part-00002.parquet cannot be written: No space"):
            write(encoder, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    write(encoder, tmp_path / "t")
    parts = contents(tmp_path / "t")
    parts.pop("part-00002.parquet.tmp", None)
    assert parts == contents(tmp_path / "whole")


def test_one_line_reads_it(encoder, tmp_path):
    write(encoder, tmp_path / "t")
    write(encoder, tmp_path / "n", kind="npy")
    expected = features.represent(encoder, SOURCE, image_size=SIZE, batch_size=4)
    close = {"rtol": 1e-5, "atol": 1e-6}

    import pyarrow.parquet

    # What pandas.read_parquet calls.
    found = pyarrow.parquet.read_table(str(tmp_path / "t"))
    assert str(found.schema.field("embedding").type).startswith("fixed_size_list<")
    assert found.column_names == [
        *("path", "path_bytes", "height", "width", "label", "label_name", "embedding")
    ]
    np.testing.assert_allclose(np.stack(found["embedding"].to_numpy()), expected, **close)
    facts = json.loads(found.schema.metadata[b"tf_simclr"])
    assert facts["encoder"] == features.encoder_fingerprint(encoder)
    parts = sorted((tmp_path / "n").glob("part-*.npy"))
    np.testing.assert_allclose(np.concatenate([np.load(p) for p in parts]), expected, **close)


def test_pandas_reads_it(encoder, tmp_path):
    pandas = pytest.importorskip("pandas")
    write(encoder, tmp_path / "t")
    frame = pandas.read_parquet(str(tmp_path / "t"))
    assert len(frame) == N and np.stack(frame.embedding).shape == (N, 12)


def test_duckdb_reads_it(encoder, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    write(encoder, tmp_path / "t")
    rows = duckdb.sql(f"from '{tmp_path}/t/*.parquet' select path, embedding").fetchall()
    assert len(rows) == N and len(rows[0][1]) == 12


def test_rows_of_a_part_are_found_again(encoder, tmp_path):
    write(encoder, tmp_path / "t")
    found = open_table(str(tmp_path / "t"))
    rows = found.rows([22, 0, 7, 7])
    assert sorted(rows) == [0, 7, 22]
    for row, one in rows.items():
        assert isinstance(one, Rows) and list(one.paths) == [SOURCE.describe(row)]
