"""Search backends: from query vectors and a table to the nearest rows, by cosine similarity."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr import storage
from tf_simclr.embeddings import Table
from tf_simclr.errors import UserError

gfile = tf.io.gfile

MOST_EXACT = 1_000_000  # Vectors, up to which auto searches exactly.
_QUERIES = 1024  # In a block: 32 MiB of similarities to a part of 8192 rows.
_NUMBERS = 2**22  # Of float64 at a time, when candidates are compared exactly: 32 MiB.
_ROUNDING = 1e-5  # More than float32 rounds in a sum of thousands of products of unit vectors.
_TRAINED_ON = 200_000  # Vectors that faiss's lists are made from, at most.


def exact(queries: np.ndarray, table: Table, k: int, folder: str = ""):
    """The k most similar rows of a table, compared in float64; the table is read once.

    Products in float32 choose the candidates, which are then compared in float64. Rows of equal
    similarity come in their order in the table. One part of the table is in memory at a time.

    Args:
      queries: float32 [M, D], of any norm; zeros have similarity 0 to everything.
      table: the table.
      k: how many rows, at most those there are.
      folder: not used.

    Returns:
      (rows int64 [M, k], cosine similarities float64 [M, k] in [-1, 1]), most similar first.

    Raises:
      UserError: the table is damaged.
    """
    del folder
    k = min(k, len(table))
    rows = np.full([len(queries), k], -1, np.int64)
    values = np.full([len(queries), k], -np.inf)
    norms = np.maximum(np.linalg.norm(queries.astype(np.float64), axis=1), 1e-12)
    unit = (queries / norms[:, np.newaxis]).astype(np.float32)
    parts = tqdm(table.parts(), "Searching", len(table.counts), mininterval=5, delay=3)
    for first, part in parts:
        if not len(part):
            continue
        lengths = np.maximum(np.linalg.norm(part.h.astype(np.float64), axis=1), 1e-12)
        keys = part.h / lengths[:, np.newaxis].astype(np.float32)
        for start in range(0, len(queries), _QUERIES):
            block = slice(start, start + _QUERIES)
            rough = unit[block] @ keys.T
            least = values[block, -1]
            if len(part) > k:
                own = np.partition(rough, len(part) - k, axis=1)[:, len(part) - k]
                least = np.maximum(least, own)
            which, column = np.nonzero(rough >= (least - _ROUNDING)[:, np.newaxis])
            found = _cosines(queries[block], part.h, norms[block], lengths, which, column)
            _merge(rows[block], values[block], which, column + first, found)
    return rows, values


def _cosines(queries, keys, norms, lengths, which, column) -> np.ndarray:
    """The similarities of pairs (query, key) in float64; the same bits for equal vectors."""
    found = np.empty(len(which))
    step = max(_NUMBERS // keys.shape[1], 1)
    for start in range(0, len(which), step):
        q, c = which[start : start + step], column[start : start + step]
        products = queries[q].astype(np.float64) * keys[c].astype(np.float64)
        found[start : start + step] = products.sum(axis=1) / (norms[q] * lengths[c])
    return np.clip(found, -1.0, 1.0)


def _merge(rows, values, which, new_rows, new_values) -> None:
    """Keeps, in place, the best k of what each query has and of what was found for it."""
    count, k = rows.shape
    query = np.concatenate([np.repeat(np.arange(count), k), which])
    row = np.concatenate([rows.reshape(-1), new_rows])
    value = np.concatenate([values.reshape(-1), new_values])
    order = np.lexsort((row, -value, query))
    starts = np.searchsorted(query[order], np.arange(count))
    chosen = order[starts[:, np.newaxis] + np.arange(k)]
    rows[...], values[...] = row[chosen], value[chosen]


def faiss(queries: np.ndarray, table: Table, k: int, folder: str = ""):
    """As `exact`, but approximate: faiss looks into the lists of vectors nearest to each query.

    The index (IVF, 4 sqrt(N) lists of which a sixteenth is searched) is made once and kept in
    `folder`. It is in memory as a whole: 4 D bytes per image.

    Raises:
      UserError: as `exact`; there is no faiss; the index cannot be written.
    """
    try:
        import faiss as library
    except ImportError as error:
        raise UserError(
            "--search_backend=faiss needs faiss: pip install 'tf_simclr[search]', or pass "
            "--search_backend=exact."
        ) from error
    index = _index_of(library, table, folder)
    index.nprobe = max(index.nlist // 16, min(index.nlist, 8))
    values, rows = index.search(_unit(queries), min(k, len(table)))
    return rows.astype(np.int64), values.astype(np.float64)


def _index_of(library, table: Table, folder: str):
    """The index of a table: read from the folder if it is there and of this table, or made."""
    path = os.path.join(folder, "index.faiss") if folder else ""
    name = f"{table.facts['encoder']} {table.facts['source']} {table.digest()}\n".encode()
    kept = storage.read_bytes(path) if path else None
    if kept is not None and kept.startswith(name):
        try:
            return library.deserialize_index(np.frombuffer(kept, np.uint8, offset=len(name)))
        except Exception as error:  # It raises RuntimeError, and others for damaged bytes.
            logging.warning("%s is damaged (%s); making it again.", path, error)
    lists = max(int(4 * np.sqrt(len(table))), 1)
    lists = min(lists, max(len(table) // 39, 1))  # faiss wants 39 vectors or more for each.
    width = table.facts["D"]
    quantizer = library.IndexFlatIP(width)
    index = library.IndexIVFFlat(quantizer, width, lists, library.METRIC_INNER_PRODUCT)
    index.train(_some(table, min(_TRAINED_ON, 64 * lists)))
    parts = tqdm(table.parts(), "Making the index", len(table.counts), mininterval=5, delay=3)
    for _, part in parts:
        if len(part):
            index.add(_unit(part.h))
    if path:
        with storage.naming(folder):
            gfile.makedirs(folder)
        storage.write_whole(path, name + library.serialize_index(index).tobytes())
    return index


def _some(table: Table, most: int) -> np.ndarray:
    """About `most` unit vectors from all over a table, always the same, float32 [n, D]."""
    every = max(len(table) // most, 1)
    return np.concatenate(
        [_unit(part.h[(-first) % every :: every]) for first, part in table.parts()]
    )


def _unit(h: np.ndarray) -> np.ndarray:
    norms = np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(h / norms, np.float32)


# A backend is a function of (queries, table, k, folder for what it keeps), as `exact` is.
Backend = Callable[[np.ndarray, Table, int, str], tuple[np.ndarray, np.ndarray]]
BACKENDS: dict[str, Backend] = {"exact": exact, "faiss": faiss}


def resolve(name: str, table: Table) -> str:
    """The backend that --search_backend names, a key of `BACKENDS`; "auto" decides by size."""
    if name != "auto":
        return name
    if len(table) <= MOST_EXACT:
        return "exact"
    if importlib.util.find_spec("faiss") is not None:
        return "faiss"
    logging.info("%d vectors are searched exactly; with faiss it would be faster.", len(table))
    return "exact"
