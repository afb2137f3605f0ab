"""File formats of a table's parts: from rows to bytes, and back. The same rows, the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_simclr.embeddings.rows import Rows, bytes_of, path_of, text_of


@dataclasses.dataclass(frozen=True)
class Format:
    """One value of --table_format.

    Attributes:
      endings: of the files of a part.
      encode: from (rows, facts of the table) to {ending: bytes}.
      decode: from {ending: bytes} to rows; any exception means that the bytes are damaged.
    """

    endings: tuple[str, ...]
    encode: Callable[[Rows, dict[str, Any]], dict[str, bytes]]
    decode: Callable[[dict[str, bytes]], Rows]


def _to_parquet(rows: Rows, facts: dict[str, Any]) -> dict[str, bytes]:
    import pyarrow as pa  # Late: the other modes do without it.
    import pyarrow.parquet as pq

    vectors = pa.array(np.ascontiguousarray(rows.h).reshape(-1), pa.float32())
    columns = {
        "path": pa.array(list(map(text_of, rows.paths)), pa.string()),
        "path_bytes": pa.array(list(map(bytes_of, rows.paths)), pa.binary()),
        "height": pa.array(rows.sizes[:, 0], pa.int32()),
        "width": pa.array(rows.sizes[:, 1], pa.int32()),
    }
    if rows.labels is not None:
        columns["label"] = pa.array(rows.labels, pa.int64())
        columns["label_name"] = pa.array(list(map(text_of, rows.label_names)), pa.string())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(vectors, rows.h.shape[1])
    # pandas, DuckDB and others show these facts as the schema's metadata.
    table = pa.table(columns, metadata={"tf_simclr": json.dumps(facts, sort_keys=True)})
    buffer = io.BytesIO()
    # Floats hardly compress, and have no use for a dictionary.
    names = [name for name in columns if name != "embedding"]
    pq.write_table(
        table,
        buffer,
        row_group_size=max(len(rows), 1),
        use_dictionary=[name for name in names if name == "label_name"],
        compression={**dict.fromkeys(names, "zstd"), "embedding": "none"},
        write_statistics=names,
    )
    return {".parquet": buffer.getvalue()}


def _from_parquet(files: dict[str, bytes]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(files[".parquet"])).combine_chunks()
    column = table.column("embedding")
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy() for chunk in column.chunks] or [np.zeros(0, np.float32)]
    labels, label_names = None, None
    if "label" in table.column_names:
        labels = table.column("label").to_numpy()
        label_names = table.column("label_name").to_pylist()
    named = zip(table.column("path").to_pylist(), table.column("path_bytes").to_pylist())
    return Rows(
        np.concatenate(chunks).reshape(-1, width),
        [path_of(*both) for both in named],
        np.stack([table.column(name).to_numpy() for name in ("height", "width")], axis=1),
        labels,
        label_names,
    )


def _to_npy(rows: Rows, facts: dict[str, Any]) -> dict[str, bytes]:
    vectors, text = io.BytesIO(), io.StringIO(newline="")
    np.save(vectors, np.ascontiguousarray(rows.h))
    table = csv.writer(text, lineterminator="\n")
    labelled = rows.labels is not None
    table.writerow(["path", "path_bytes", "height", "width", *["label", "label_name"] * labelled])
    for i, path in enumerate(rows.paths):
        exact = (bytes_of(path) or b"").hex()
        label = [int(rows.labels[i]), text_of(rows.label_names[i])] if labelled else []
        table.writerow([text_of(path), exact, *map(int, rows.sizes[i]), *label])
    return {".npy": vectors.getvalue(), ".csv": text.getvalue().encode()}


def _from_npy(files: dict[str, bytes]) -> Rows:
    h = np.load(io.BytesIO(files[".npy"]), allow_pickle=False)
    lines = list(csv.DictReader(io.StringIO(files[".csv"].decode(), newline="")))
    if len(lines) != len(h):
        raise ValueError(f"{len(lines)} names for {len(h)} vectors")
    exact = (bytes.fromhex(line["path_bytes"]) or None for line in lines)
    labelled = bool(lines) and "label" in lines[0]
    return Rows(
        h,
        [path_of(line["path"], encoded) for line, encoded in zip(lines, exact)],
        np.array([[line["height"], line["width"]] for line in lines], np.int32).reshape(-1, 2),
        np.array([line["label"] for line in lines], np.int64) if labelled else None,
        [line["label_name"] for line in lines] if labelled else None,
    )


FORMATS = {
    "parquet": Format((".parquet",), _to_parquet, _from_parquet),
    "npy": Format((".npy", ".csv"), _to_npy, _from_npy),
}
