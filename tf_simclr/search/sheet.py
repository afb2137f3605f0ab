"""nearest.html: a contact sheet of queries and what was found, one file that loads nothing."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.data.decoding import MAX_BYTES, decode
from tf_simclr.report import document, sheet
from tf_simclr.search.answers import Answer
from tf_simclr.search.queries import shown

MOST_QUERIES = 100  # On the page, which a browser holds in memory; the JSON file has all.


def contact_sheet(found: list[Answer], sub: str) -> str:
    """The page, HTML without anything to load.

    Args:
      found: the answers; the first `MOST_QUERIES` are shown.
      sub: what was searched, a line below the title, plain text.
    """
    first = found[:MOST_QUERIES]
    pictures: dict[str, str] = {}

    def item(path, title, query=False):
        if path not in pictures:
            pictures[path] = _picture(path)
        return sheet.item(pictures[path], title, shown(path), query)

    parts = [f"<h1>Nearest images</h1><p class='sub'>{sheet.text(shown(sub))}</p>"]
    if len(first) < len(found):
        parts.append(
            f"<p>The first {len(first)} of {len(found)} queries; nearest.json has all.</p>"
        )
    for answer in first:
        items = [item(answer.query, "query", query=True)]
        for rank, match in enumerate(answer.matches, 1):
            label = f" {shown(match.label)}" if match.label else ""
            items.append(item(match.path, f"{rank} · {match.similarity:.3f}{label}"))
        parts.append(sheet.row(items))
    return document("Nearest images", "".join(parts), sheet.STYLE)


def _picture(path: str) -> str:
    """A thumbnail of an image file as a data URI; "" if it cannot be read."""
    name = path.encode("utf-8", "surrogateescape")
    try:
        if not tf.io.gfile.exists(name) or tf.io.gfile.stat(name).length > MAX_BYTES:
            return ""
        return sheet.data_uri(sheet.thumbnail(decode(tf.io.read_file(name), 3)))
    except (OSError, ValueError, tf.errors.OpError):
        return ""
