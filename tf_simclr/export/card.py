"""The card of an exported encoder: what it was trained on, what goes in, what comes out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tf_simclr import __version__, storage
from tf_simclr.errors import UserError, printable
from tf_simclr.export.exportable import Exportable
from tf_simclr.export.formats import FORMATS, Format


def card_of(found: Exportable, written: dict[str, Any], more: dict[str, Any]) -> str:
    """The card as JSON.

    Args:
      found: the encoder.
      written: what `write_formats` returned.
      more: the caller's facts; any values.
    """
    facts = {
        "encoder": found.model.name,
        **more,
        "input": {
            "range": "[0, 1], no mean or std normalisation",
            "channels": found.images.shape[-1],
            "image_size": found.image_size or "any",
            "crop_proportion": found.crop_proportion,
        },
        "embedding_dim": found.embedding_dim,
        "parameters": found.model.count_params(),
        **written,
        "compared_on": f"{len(found.probe.images)} "
        f"{'synthetic' if found.representative is None else 'representative'} images; differences "
        "are in standard deviations of a dimension; changing the images by one float32 step makes "
        f"a difference of {found.probe.noise:.2g}",
        "left_out": found.left_out,
        "versions": {"tf_simclr": __version__, "tensorflow": tf.__version__},
    }
    return json.dumps(facts, indent=2, default=_jsonable) + "\n"


def card_files(card: str) -> dict[str, str]:
    """{file name: content}: card.json, for programs, and card.md, for people."""
    return {"card.json": card, "card.md": markdown(card)}


def write_card(directory: str, card: str) -> None:
    """Replaces the files of the card, each whole.

    Raises:
      UserError: they cannot be written.
    """
    for name, content in card_files(card).items():
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
    json.dumps(results)  # A mistake of the caller is not to be taken for a damaged card.
    try:
        facts = {**json.loads(storage.read_text(path)), "results": results}
        card = json.dumps(facts, indent=2) + "\n"
        markdown(card)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); --mode=export writes a new one."
        ) from error
    write_card(directory, card)


def markdown(card: str) -> str:
    """The card for people, with a head that the Hugging Face hub reads."""
    facts = json.loads(card)
    return f"""{_head(facts)}

# Encoder {_literal(facts["encoder"])}

Maps an image to a vector of {facts["embedding_dim"]} numbers; learned with SimCLR \
(arXiv:2002.05709) by tf_simclr.

{_bullets(facts)}

## Use

`images` are float32 [N, H, W, C] in [0, 1], `pixels` uint8 of any size.

{_use(facts)}
On the command line:

    saved_model_cli run --dir this/folder --tag_set serve --signature_def uint8 \\
        --inputs images=images.npy
"""


def _head(facts: dict) -> str:
    """YAML between two lines of dashes; JSON values are YAML too."""
    dataset = facts.get("settings", {}).get("dataset", "folder")
    head = {
        "library_name": "tf-keras",
        "license": facts.get("license", "unknown"),
        "pipeline_tag": "image-feature-extraction",
        "tags": ["simclr", "self-supervised-learning", "contrastive-learning", "tensorflow"],
        "datasets": [] if dataset == "folder" else [dataset],
        "metrics": ["accuracy"] if facts.get("results") else [],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in head.items() if value]
    return "\n".join(["---", *lines, "---"])


def _use(facts: dict) -> str:
    """A block of Python for each program that loads a format."""
    left_out = facts.get("left_out", {})
    # The first cards did not list formats; these two were all there were.
    formats = facts.get("formats", {"saved_model", "encoder.keras"} - set(left_out))
    blocks = []
    for form in FORMATS:
        if _listed(form, formats):
            for program, code in form.use.items():
                title = f"{program}, from {' and '.join(form.files)}"
                blocks.append(f"{title}:\n\n```python\n{code}\n```\n")
        elif _listed(form, left_out):
            blocks.append(f"{form.name} was not written; left\\_out above says why.\n")
    return "\n".join(blocks)


def _listed(form: Format, names: Iterable[str]) -> bool:
    """Whether a format is among the names of a card; earlier ones say encoder.keras for keras."""
    return form.name in names or form.files[0] in names


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
