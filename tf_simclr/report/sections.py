"""The sections of the page: functions from a `Run` to HTML, or "" where the data is absent."""

from __future__ import annotations

import base64
import html
from typing import Any

from tf_simclr.report import pictures
from tf_simclr.report.run import Run

_MOST_SHOWN = 20  # Entries of a list of numbers; results can hold longer ones.


def head(run: Run) -> str:
    """Title, data set, encoder, and how long it was trained."""
    settings = dict(
        line[2:].partition("=")[::2] for line in run.flags.splitlines() if line.startswith("--")
    )
    what = [settings.get(name, "") for name in ("dataset", "encoder")]
    done, lines = "not trained yet", run.lines
    if lines:
        images = settings.get("train_batch_size", "?")
        done = f"{lines[-1]['step']:,} steps of {images} images"
    facts = [*what, f"{settings.get('image_size', '?')} px", done]
    return f"<h1>SimCLR</h1><p class='sub'>{html.escape(' · '.join(filter(None, facts)))}</p>"


def linear_eval(run: Run) -> str:
    """Accuracy by number of labels, as a table and as bars."""
    result = run.result("linear_eval")
    rows = result.get("few_label", [])
    if not rows:
        return ""
    counts = list(dict.fromkeys(row["labels_per_class"] for row in rows))
    columns = "".join(f"<th>{html.escape(pictures.count_name(count))}</th>" for count in counts)
    body = ""
    for name in dict.fromkeys(row["features"] for row in rows):
        cells = "".join(
            f"<td>{row['mean']:.1%}<small>{spread(row)}</small></td>"
            for row in rows
            if row["features"] == name
        )
        kind = " class='ours'" if name == "trained encoder" else ""
        body += f"<tr{kind}><td>{html.escape(name)}</td>{cells}</tr>"
    note = (
        "<p>Top-1 accuracy of logistic regression on frozen features: mean and standard deviation "
        "over the random draws of labels.</p>"
    )
    table = f"<table><thead><tr><th></th>{columns}</tr></thead><tbody>{body}</tbody></table>"
    bars = _image(pictures.accuracy_bars(rows), "accuracy by number of labels")
    return f"{note}{_wide(table)}{bars}{_origin(result)}"


def spread(row: dict) -> str:
    """ " ± 1.2%", the standard deviation over the draws; "" for a single draw."""
    return f" ± {row['std']:.1%}" if row.get("draws", 1) > 1 else ""


def knn_eval(run: Run) -> str:
    """Accuracy of the vote of the nearest neighbours."""
    result = run.result("knn_eval")
    if not result:
        return ""
    values = ", ".join(
        f"{html.escape(name)} {value:.1%}" for name, value in result.get("top1", {}).items()
    )
    return f"<p>Top-1 accuracy (k = {_text(result.get('k'))}): {values}.</p>{_origin(result)}"


def finetune(run: Run) -> str:
    """Accuracy of the fine-tuned classifier."""
    result = run.result("finetune")
    if not result:
        return ""
    top1 = f"{result['top1']:.1%}"
    return f"<p>Fine-tuned classifier: top-1 {top1} of {_text(result.get('images'))} images.</p>"


def numbers(run: Run, modes: list[str]) -> str:
    """The results of modes without a section of their own, as a table of names and values."""
    tables = ""
    for mode in modes:
        rows = "".join(
            f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>"
            for name, value in _flat(run.result(mode))
        )
        tables += f"<h3>{_text(mode)}</h3>{_wide(f'<table><tbody>{rows}</tbody></table>')}"
    return tables


# What the levels mean that a loss may have; `pictures.curves` draws them as dashed lines.
_LEVELS = {
    "untrained_level": "An untrained encoder starts near {:.3f}, the loss of random embeddings.",
    "chance_level": "Chance, {:.3f}, is the loss of identical embeddings. A long run ends below "
    "it. A short one may end above it and still have learned, as long as its loss falls.",
}


def training(run: Run) -> str:
    """The curves, the loss at both ends of the run, and the levels to compare it with."""
    lines = run.lines
    if not lines:
        return ""
    first, last = lines[0], lines[-1]
    known = [text.format(last[name]) for name, text in _LEVELS.items() if name in last]
    ends = (
        f"This run had a loss of {first['loss']:.3f} at step {first['step']} and of "
        f"{last['loss']:.3f} at step {last['step']}."
    )
    curves = _image(pictures.curves(lines), "curves over the steps")
    return f"{curves}<p>{' '.join([ends, *known])}</p>"


def views(run: Run) -> str:
    """The pairs of views."""
    png = run.views
    if not png:
        return ""
    note = "<p>Each column is an image, with its two random views one above the other.</p>"
    return note + _image(png, "pairs of views")


def embedding_map(run: Run) -> str:
    """t-SNE of the features."""
    saved = run.embeddings
    if not saved:
        return ""
    names = {"trained": "trained encoder", "pixels": "raw pixels"}
    features = {title: saved[key] for key, title in names.items() if key in saved}
    class_names = [str(name) for name in saved["class_names"]]
    return _image(pictures.map_of(features, saved["labels"], class_names), "t-SNE of the features")


def settings(run: Run) -> str:
    """The flags of the run."""
    return f"<pre>{html.escape(run.flags)}</pre>"


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    image = f"<img alt='{html.escape(alt, quote=True)}' src='data:image/png;base64,{data}'>"
    return _wide(image)


def _wide(content: str) -> str:
    """Content that scrolls by itself where the page is narrow."""
    return f"<div class='wide'>{content}</div>"


def _origin(result: dict) -> str:
    """Says where the encoder came from if it is not the one of this workdir."""
    path = result.get("init_from")
    return f"<p>This is the encoder from {_text(path)}.</p>" if path else ""


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested results as (name, value) pairs: {"a": {"b": 1}} gives ("a / b", "1")."""
    if isinstance(value, dict):
        pairs = [_flat(v, f"{name} / {key}" if name else str(key)) for key, v in value.items()]
        return [pair for some in pairs for pair in some]
    if isinstance(value, list):
        shown = ", ".join(_plain(v) for v in value[:_MOST_SHOWN])
        return [(name, shown + (", ..." if len(value) > _MOST_SHOWN else ""))]
    return [(name, _plain(value))]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
