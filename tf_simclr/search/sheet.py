"""nearest.html: a contact sheet of queries and what was found, one file that loads nothing."""

from __future__ import annotations

import base64
import html

import tensorflow as tf

from tf_simclr.data.decoding import MAX_BYTES, decode
from tf_simclr.report import document
from tf_simclr.search.answers import Answer
from tf_simclr.search.queries import shown

MOST_QUERIES = 100  # On the page, which a browser holds in memory; the JSON file has all.
_SIDE = 240  # Longer side of a thumbnail in pixels: sharp on phones at half of it.

_STYLE = """
ol.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem;
           list-style: none; padding: 0; margin: .6rem 0 2rem; align-items: start; }
ol.sheet li { min-width: 0; font-size: .75rem; line-height: 1.35; }
ol.sheet li.query { outline: 3px solid #222; outline-offset: 3px; }
ol.sheet img, ol.sheet div.none { display: block; width: 100%; aspect-ratio: 1;
           object-fit: contain; background: #f5f5f5; }
ol.sheet div.none { display: grid; place-items: center; color: #777; }
ol.sheet b { display: block; margin-top: .25rem; } ol.sheet small { color: #777; }
"""


def contact_sheet(found: list[Answer], sub: str) -> str:
    """The page, HTML without anything to load.

    Args:
      found: the answers; the first `MOST_QUERIES` are shown.
      sub: what was searched, a line below the title, plain text.
    """
    first = found[:MOST_QUERIES]
    pictures: dict[str, str] = {}
    parts = [f"<h1>Nearest images</h1><p class='sub'>{_text(sub)}</p>"]
    if len(first) < len(found):
        parts.append(
            f"<p>The first {len(first)} of {len(found)} queries; nearest.json has all.</p>"
        )
    for answer in first:
        items = _item(pictures, answer.query, "query", "", " class='query'")
        for rank, match in enumerate(answer.matches, 1):
            title = f"{rank} · {match.similarity:.3f}"
            items += _item(pictures, match.path, title, match.label or "", "")
        parts.append(f"<ol class='sheet'>{items}</ol>")
    return document("Nearest images", "".join(parts), _STYLE)


def _item(pictures: dict[str, str], path: str, title: str, label: str, kind: str) -> str:
    if path not in pictures:
        pictures[path] = _thumbnail(path)
    picture = pictures[path]
    if picture:
        content = f"<img alt='{_text(path)}' src='{picture}'>"
    else:
        content = "<div class='none'>no picture</div>"
    label = f" {_text(label)}" if label else ""
    return f"<li{kind}>{content}<b>{_text(title)}{label}</b><small>{_text(path)}</small></li>"


def _thumbnail(path: str) -> str:
    """A small JPEG of an image file as a data URI; "" if it cannot be read."""
    name = path.encode("utf-8", "surrogateescape")
    try:
        if not tf.io.gfile.exists(name) or tf.io.gfile.stat(name).length > MAX_BYTES:
            return ""
        jpeg = _reduced(tf.io.read_file(name)).numpy()
    except (OSError, ValueError, tf.errors.OpError):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _reduced(contents):
    image = decode(contents, 3)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    size *= tf.minimum(_SIDE / tf.reduce_max(size), 1.0)
    small = tf.image.resize(image, tf.maximum(tf.cast(tf.round(size), tf.int32), 1), "area")
    return tf.io.encode_jpeg(tf.cast(tf.round(small), tf.uint8), quality=80)


def _text(value: str) -> str:
    """Text from outside, as one printable line, escaped."""
    return html.escape(shown(value), quote=True)
