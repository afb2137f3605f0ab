"""duplicates.html: groups of copies side by side, one file that loads nothing."""

from __future__ import annotations

import tensorflow as tf

from tf_simclr.duplicates.findings import Findings
from tf_simclr.duplicates.groups import KINDS
from tf_simclr.report import document, sheet

MOST_GROUPS, MOST_IN_GROUP = 60, 8  # On the page, which a browser holds; the CSV file has all.


def contact_sheet(findings: Findings, lines: list[str]) -> str:
    """The page, HTML without anything to load, of bounded size.

    Args:
      findings: what was found; the first groups and leaks are shown.
      lines: what to say above them, plain text.
    """
    source, groups = findings.source, findings.groups
    body = ["<h1>Duplicates</h1>", *(f"<p class='sub'>{sheet.text(line)}</p>" for line in lines)]
    members = list(findings.members().items())
    body.append(_heading("Groups: the first image is kept", len(members)))
    for _, rows in members[:MOST_GROUPS]:
        items = []
        for row in rows[:MOST_IN_GROUP]:
            kind = int(groups.kind[row])
            title = "kept" if kind < 0 else _titled(KINDS[kind], groups.distance[row])
            items.append(_item(source, row, title, first=kind < 0))
        if len(rows) > MOST_IN_GROUP:
            items.append(f"<li>and {len(rows) - MOST_IN_GROUP} more</li>")
        body.append(sheet.row(items))
    if findings.evaluated is not None:
        title = "Leaks: an image of the evaluation set, and the training image it is a copy of"
        body.append(_heading(title, len(findings.leaks)))
        for leak in findings.leaks[:MOST_GROUPS]:
            evaluated = _item(findings.evaluated, leak.row, "evaluation", first=True)
            copy = _item(source, leak.of, _titled(leak.kind, leak.distance))
            body.append(sheet.row([evaluated, copy]))
    if findings.outliers:
        body.append(_heading("Outliers, furthest first", len(findings.outliers)))
        shown = findings.outliers[:MOST_GROUPS]
        body.append(sheet.row([_item(source, row, f"{distance:.3f}") for row, distance in shown]))
    return document("Duplicates", "".join(body), sheet.STYLE)


def _heading(title, count):
    more = f" (the first {MOST_GROUPS} of {count}; duplicates.csv has all)"
    return f"<h2>{sheet.text(title)}{more if count > MOST_GROUPS else ''}</h2>"


def _titled(kind, distance):
    return f"{kind} {distance:.3g}" if distance else kind


def _item(source, row, title, first=False):
    try:
        picture = sheet.data_uri(sheet.thumbnail(source.load(tf.constant(row, tf.int64))))
    except tf.errors.OpError:
        picture = ""
    return sheet.item(picture, title, source.describe(row), first)
