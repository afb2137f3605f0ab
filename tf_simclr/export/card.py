"""The card of an exported encoder: what it was trained on, what goes in, what comes out."""

from __future__ import annotations

import json
import os
import re

import tensorflow as tf

from tf_simclr import __version__, storage
from tf_simclr.errors import UserError, printable
from tf_simclr.export.exportable import KERAS_FILE, Exportable


def card_of(found: Exportable, signatures: dict, endpoints: list, sizes: dict, more: dict) -> str:
    """The card as JSON.

    Args:
      found: the encoder.
      signatures: what each takes and gives, by name.
      endpoints: names of the intermediate tensors.
      sizes: "image_size" and "crop_proportion" of the signature for uint8 images.
      more: what the caller has to tell; any values.
    """
    facts = {
        "encoder": found.model.name,
        **more,
        "input": {
            "range": "[0, 1], no mean or std normalisation",
            "channels": found.images.shape[-1],
            **sizes,
        },
        "embedding_dim": found.embedding_dim,
        "parameters": found.model.count_params(),
        "endpoints": endpoints,
        "signatures": signatures,
        "left_out": found.left_out,
        "versions": {"tf_simclr": __version__, "tensorflow": tf.__version__},
    }
    return json.dumps(facts, indent=2, default=_jsonable) + "\n"


def write_card(directory: str, card: str) -> None:
    """Writes the card as card.json, for programs, and card.md, for people."""
    for name, content in (("card.json", card), ("card.md", markdown(card))):
        storage.write_whole(os.path.join(directory, name), content)


def refresh_card(directory: str, results: dict) -> None:
    """Replaces the results on an exported encoder's card; does nothing where there is no card.

    Args:
      directory: of the export.
      results: {mode: numbers}, JSON-ready.

    Raises:
      UserError: the card is damaged or cannot be written.
    """
    path = os.path.join(directory, "card.json")
    if not tf.io.gfile.exists(path):
        return
    try:
        facts = {**json.loads(storage.read_text(path)), "results": results}
        card = json.dumps(facts, indent=2) + "\n"
        markdown(card)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error!r}); --mode=export writes it anew.") from error
    write_card(directory, card)


def markdown(card: str) -> str:
    """The card for people."""
    facts = json.loads(card)
    keras = f'encoder = tf.keras.models.load_model("this/folder/{KERAS_FILE}")'
    if KERAS_FILE in facts.get("left_out", {}):
        keras = f"# There is no {KERAS_FILE}, see left_out above."
    return f"""# Encoder {_literal(facts["encoder"])}

Maps an image to a vector of {facts["embedding_dim"]} numbers; learned with SimCLR \
(arXiv:2002.05709) by tf_simclr.

{_bullets(facts)}

## Use

```python
import tensorflow as tf, tensorflow_hub as hub
layer = hub.KerasLayer("this/folder", trainable=True)     # fine-tune; images float32 in [0, 1]
{keras:75} # or as a Keras model
h = tf.saved_model.load("this/folder").signatures["uint8"](tf.constant(images))["embedding"]
```

    saved_model_cli run --dir this/folder --tag_set serve --signature_def uint8 \\
        --inputs images=images.npy
"""


def _bullets(facts: dict, depth: int = 0) -> str:
    """Nested facts as nested list items."""
    lines = []
    for name, value in facts.items():
        head = f"{'  ' * depth}- **{_literal(name)}**:"
        if isinstance(value, dict):
            lines += [head, _bullets(value, depth + 1)] if value else []
        elif isinstance(value, list):
            lines.append(f"{head} {_literal(', '.join(map(str, value)))}")
        else:
            lines.append(
                f"{head} {f'{value:.4g}' if isinstance(value, float) else _literal(value)}"
            )
    return "\n".join(lines)


def _literal(text) -> str:
    """Text that Markdown shows as it is: no emphasis, code, HTML or link."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*~]|\](?=\()|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def _jsonable(value):
    return value.item() if hasattr(value, "item") else str(value)  # NumPy scalars; paths, dates.
