"""duplicates.html: groups of copies side by side, one file that loads nothing."""

from __future__ import annotations

import base64
import html

import tensorflow as tf

from tf_simclr.duplicates.findings import Findings
from tf_simclr.duplicates.groups import KINDS
from tf_simclr.errors import printable
from tf_simclr.report import document

MOST_GROUPS, MOST_IN_GROUP = 60, 8  # On the page, which a browser holds; the CSV file has all.
_SIDE = 200  # Longer side of a thumbnail in pixels.

_STYLE = """
ol.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .8rem;
           list-style: none; padding: .4rem 0; margin: 0; border-top: 1px solid #ddd; }
ol.sheet li { min-width: 0; font-size: .75rem; line-height: 1.35; }
ol.sheet li.kept img { outline: 3px solid #222; outline-offset: 2px; }
ol.sheet img, ol.sheet div.none { display: block; width: 100%; aspect-ratio: 1;
           object-fit: contain; background: #f5f5f5; }
ol.sheet div.none { display: grid; place-items: center; color: #777; }
ol.sheet b { display: block; margin-top: .25rem; } ol.sheet small { color: #777; }
"""


def contact_sheet(findings: Findings, lines: list[str]) -> str:
    """The page, HTML without anything to load, of bounded size.

    Args:
      findings: what was found; the first groups and leaks are shown.
      lines: what to say above them, plain text.
    """
    source, groups = findings.source, findings.groups
    body = ["<h1>Duplicates</h1>", *(f"<p class='sub'>{_text(line)}</p>" for line in lines)]
    members = list(findings.members().items())
    body.append(_heading("Groups: the first image is kept", len(members)))
    for _, rows in members[:MOST_GROUPS]:
        items = ""
        for row in rows[:MOST_IN_GROUP]:
            kind = int(groups.kind[row])
            title = "kept" if kind < 0 else _titled(KINDS[kind], groups.distance[row])
            items += _item(source, row, title, " class='kept'" if kind < 0 else "")
        if len(rows) > MOST_IN_GROUP:
            items += f"<li>and {len(rows) - MOST_IN_GROUP} more</li>"
        body.append(f"<ol class='sheet'>{items}</ol>")
    if findings.evaluated is not None:
        title = "Leaks: an image of the evaluation set, and the training image it is a copy of"
        body.append(_heading(title, len(findings.leaks)))
        for leak in findings.leaks[:MOST_GROUPS]:
            items = _item(findings.evaluated, leak.row, "evaluation", "")
            items += _item(source, leak.of, _titled(leak.kind, leak.distance), "")
            body.append(f"<ol class='sheet'>{items}</ol>")
    if findings.outliers:
        body.append(_heading("Outliers, furthest first", len(findings.outliers)))
        shown = findings.outliers[:MOST_GROUPS]
        items = "".join(_item(source, row, f"{distance:.3f}", "") for row, distance in shown)
        body.append(f"<ol class='sheet'>{items}</ol>")
    return document("Duplicates", "".join(body), _STYLE)


def _heading(title, count):
    more = f" (the first {MOST_GROUPS} of {count}; duplicates.csv has all)"
    return f"<h2>{_text(title)}{more if count > MOST_GROUPS else ''}</h2>"


def _titled(kind, distance):
    return f"{kind} {distance:.3g}" if distance else kind


def _item(source, row, title, attributes):
    name = _text(source.describe(row))
    picture = _thumbnail(source, row)
    content = "<div class='none'>no picture</div>"
    if picture:
        content = f"<img alt='{name}' loading='lazy' src='{picture}'>"
    return f"<li{attributes}>{content}<b>{_text(title)}</b><small>{name}</small></li>"


def _thumbnail(source, row):
    """A small JPEG of an image as a data URI; "" if it cannot be read."""
    try:
        image = tf.cast(source.load(tf.constant(row, tf.int64)), tf.float32)
    except tf.errors.OpError:
        return ""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    size *= tf.minimum(_SIDE / tf.reduce_max(size), 1.0)
    small = tf.image.resize(image, tf.maximum(tf.cast(tf.round(size), tf.int32), 1), "area")
    jpeg = tf.io.encode_jpeg(tf.cast(tf.round(small[..., :3]), tf.uint8), quality=75).numpy()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _text(value: str) -> str:
    """Text from outside, as one printable line, escaped."""
    return html.escape(printable(value), quote=True)
