"""Contact sheets: rows of thumbnails with names, for pages that load nothing."""

from __future__ import annotations

import base64
import html

import tensorflow as tf

from tf_simclr.errors import printable

_SIDE = 240  # Longer side of a thumbnail in pixels: sharp on phones at half of it.

STYLE = """
ol.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem;
           list-style: none; padding: .6rem 0; margin: 0; align-items: start;
           border-top: 1px solid #ddd; }
ol.sheet li { min-width: 0; font-size: .75rem; line-height: 1.35; }
ol.sheet li.first img { outline: 3px solid #222; outline-offset: 2px; }
ol.sheet img, ol.sheet div.none { display: block; width: 100%; aspect-ratio: 1;
           object-fit: contain; background: #f5f5f5; }
ol.sheet div.none { display: grid; place-items: center; color: #777; }
ol.sheet b { display: block; margin-top: .25rem; } ol.sheet small { color: #777; }
"""


def row(items: list[str]) -> str:
    """A row of items, which wraps on a narrow screen."""
    return f"<ol class='sheet'>{''.join(items)}</ol>"


def item(picture: str, title: str, name: str, first: bool = False) -> str:
    """A picture with a title and a name; the first of a row is framed.

    Args:
      picture: a data URI; "": there is none.
      title, name: plain text.
    """
    content = "<div class='none'>no picture</div>"
    if picture:
        content = f"<img alt='{text(name)}' src='{picture}'>"
    kind = " class='first'" if first else ""
    return f"<li{kind}>{content}<b>{text(title)}</b><small>{text(name)}</small></li>"


@tf.function(reduce_retracing=True)
def thumbnail(image: tf.Tensor) -> tf.Tensor:
    """A small JPEG, scalar string, of an image, uint8 [H, W, 1, 3 or 4]."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    size *= tf.minimum(_SIDE / tf.reduce_max(size), 1.0)
    small = tf.image.resize(image, tf.maximum(tf.cast(tf.round(size), tf.int32), 1), "area")
    return tf.io.encode_jpeg(tf.cast(tf.round(small[..., :3]), tf.uint8), quality=80)


def data_uri(jpeg: tf.Tensor) -> str:
    """The bytes of a JPEG, as what a page can hold."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.numpy()).decode()


def text(value: str) -> str:
    """Text from outside, as one printable line, escaped."""
    return html.escape(printable(value), quote=True)
