"""Answers: what was found for each query, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from tf_simclr.embeddings import Rows, Table, bytes_of, text_of
from tf_simclr.search.queries import Queries, shown


@dataclasses.dataclass(frozen=True)
class Match:
    """One image that was found.

    Attributes:
      row: its row in the table.
      similarity: cosine, in [-1, 1].
      path: its path; bytes that are not UTF-8 are surrogates.
      label: the name of its label; None without labels.
    """

    row: int
    similarity: float
    path: str
    label: str | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for one query: its path, and the matches, most similar first."""

    query: str
    matches: list[Match]


def answers(table: Table, queries: Queries, k: int, search, folder: str = "") -> list[Answer]:
    """Searches for queries.

    Args:
      table: where to search.
      queries: what to search for.
      k: how many matches; a query that is a row of the table is not its own match.
      search: a value of `BACKENDS`.
      folder: where the backend keeps its files; "": nowhere.
    """
    more = int((queries.own >= 0).any())
    rows, similarities = search(queries.h, table, k + more, folder)
    chosen = []
    for own, of_query, values in zip(queries.own, rows, similarities):
        pairs = [(int(r), float(v)) for r, v in zip(of_query, values) if r >= 0 and r != own]
        chosen.append(pairs[:k])
    found = table.rows({row for pairs in chosen for row, _ in pairs})
    return [
        Answer(path, [_match(row, value, found[row]) for row, value in pairs])
        for path, pairs in zip(queries.paths, chosen)
    ]


def _match(row: int, similarity: float, found: Rows) -> Match:
    label = None if found.label_names is None else found.label_names[0]
    return Match(row, similarity, found.paths[0], label)


def as_text(found: list[Answer]) -> list[str]:
    """Lines for a terminal, all printable."""
    lines = []
    for answer in found:
        lines.append(shown(answer.query))
        for rank, match in enumerate(answer.matches, 1):
            label = f"  ({shown(match.label)})" if match.label else ""
            lines.append(f"  {rank:>3}  {match.similarity:6.3f}  {shown(match.path)}{label}")
    return lines


def as_json(table: Table, found: list[Answer], backend: str) -> str:
    """The same as JSON, in ASCII; "path_bytes", in hex, is there for paths that are not UTF-8."""
    queries = [
        {
            **_named(answer.query),
            "matches": [
                {
                    "row": match.row,
                    "similarity": float(np.round(match.similarity, 6)),
                    **_named(match.path),
                    **({} if match.label is None else {"label": text_of(match.label)}),
                }
                for match in answer.matches
            ],
        }
        for answer in found
    ]
    about = {"table": text_of(table.folder), "encoder": table.facts["encoder"], "backend": backend}
    return json.dumps({**about, "queries": queries}, indent=1, allow_nan=False) + "\n"


def _named(path: str) -> dict[str, Any]:
    exact = bytes_of(path)
    return {"path": text_of(path), **({} if exact is None else {"path_bytes": exact.hex()})}
