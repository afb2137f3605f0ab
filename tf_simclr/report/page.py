"""report.html: one page, nothing loaded from anywhere, everything it shows escaped."""

from __future__ import annotations

import base64
import html
import io
import os

import numpy as np
import tensorflow as tf

from tf_simclr import storage
from tf_simclr.errors import UserError
from tf_simclr.report import pictures
from tf_simclr.workdir import read_metrics, read_results

# What reading JSON of another shape, or no JSON, raises.
_DAMAGED = (
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),
    *(OSError, tf.errors.OpError),
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.sub { color: #666; margin-top: .2rem; } img { max-width: 100%; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem; text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid #222; } tbody tr + tr td { border-top: 1px solid #ddd; }
tr.ours td { font-weight: 600; } td small { color: #777; font-weight: 400; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .8rem; columns: 2; }
"""


def write_report(workdir: str) -> str:
    """Writes WORKDIR/report.html from what the run has left there so far; parts may be missing.

    Args:
      workdir: local or any scheme of `tf.io.gfile`.

    Returns:
      The path of the page.

    Raises:
      UserError: a file of results or metrics.jsonl is damaged, or the page cannot be written.
    """
    try:
        return _write(workdir)
    except _DAMAGED as error:
        raise UserError(
            f"{workdir}/report.html cannot be made from the files beside it: {error!r}"
        ) from error


def _write(workdir: str) -> str:
    flags = _text(workdir, "flags.resolved") or ""
    result = read_results(workdir)
    lines = read_metrics(workdir)
    rows = result.get("linear_eval", {}).get("few_label", [])
    parts = [_head(flags, lines)]
    if rows:
        parts.append(
            _section(
                "How good is the representation?",
                _table(rows),
            )
        )
        parts.append(_image(pictures.accuracy_bars(rows), "accuracy by number of labels"))
    if "knn_eval" in result:
        parts.append(_knn(result["knn_eval"]))
    if "finetune" in result:
        parts.append(_finetuned(result["finetune"]))
    if lines:
        curves = _image(pictures.curves(lines), "curves over the steps")
        parts.append(_section("Training", curves + _levels(lines)))
    views = _bytes(workdir, "views.png")
    if views:
        note = "<p>A column is an image; its two random views are one above the other.</p>"
        parts.append(_section("The views", note + _image(views, "pairs of views")))
    embeddings = _bytes(workdir, "embeddings.npz")
    if embeddings:
        parts.append(_section("A map of the representation (t-SNE)", _map(embeddings)))
    parts.append(_section("Settings", f"<pre>{html.escape(flags)}</pre>"))
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>SimCLR</title>"
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    path = os.path.join(workdir, "report.html")
    # Surrogates are in no encoding.
    storage.write_whole(path, page.encode("utf-8", "backslashreplace"))
    return path


def _head(flags: str, lines: list[dict]) -> str:
    settings = dict(
        line[2:].partition("=")[::2] for line in flags.splitlines() if line.startswith("--")
    )
    what = [settings.get(name, "") for name in ("dataset", "encoder")]
    done = "not trained yet"
    if lines:
        images = settings.get("train_batch_size", "?")
        done = f"{lines[-1]['step']:,} steps of {images} images"
    facts = [*what, f"{settings.get('image_size', '?')} px", done]
    return f"<h1>SimCLR</h1><p class='sub'>{html.escape(' · '.join(filter(None, facts)))}</p>"


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{content}"


# What the levels mean that a loss may have; `pictures.curves` draws them as dashed lines.
_LEVELS = {
    "untrained_level": "An untrained encoder starts near {:.3f}, the loss of random embeddings.",
    "chance_level": "Chance, {:.3f}, is the loss of identical embeddings. A long run ends below "
    "it. A short one may end above it and still have learned, as long as its loss falls.",
}


def _levels(lines: list[dict]) -> str:
    """The loss at both ends of the run, and the levels to compare it with."""
    first, last = lines[0], lines[-1]
    known = [text.format(last[name]) for name, text in _LEVELS.items() if name in last]
    run = (
        f"This run had a loss of {first['loss']:.3f} at step {first['step']} and of "
        f"{last['loss']:.3f} at step {last['step']}."
    )
    return f"<p>{' '.join([run, *known])}</p>"


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f"<p><img alt='{html.escape(alt, quote=True)}' src='data:image/png;base64,{data}'></p>"


def _table(rows: list[dict]) -> str:
    counts = list(dict.fromkeys(row["labels_per_class"] for row in rows))
    head = "".join(f"<th>{html.escape(pictures.count_name(count))}</th>" for count in counts)
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
        "<p>Top-1 accuracy of logistic regression on frozen features, mean and standard deviation "
        "of the random draws of labels.</p>"
    )
    return f"{note}<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def spread(row: dict) -> str:
    """ " ± 1.2%", the standard deviation over the draws; "" for a single draw."""
    return f" ± {row['std']:.1%}" if row.get("draws", 1) > 1 else ""


def _knn(result: dict) -> str:
    values = ", ".join(
        f"{html.escape(name)} {value:.1%}" for name, value in result.get("top1", {}).items()
    )
    return f"<p>Nearest neighbours (k = {html.escape(str(result.get('k')))}): {values}.</p>"


def _finetuned(result: dict) -> str:
    top1, images = result["top1"], html.escape(str(result.get("images")))
    return f"<p>Fine-tuned classifier: top-1 {top1:.1%} of {images} images.</p>"


def _map(npz: bytes) -> str:
    with np.load(io.BytesIO(npz), allow_pickle=False) as saved:
        names = {"trained": "trained encoder", "pixels": "raw pixels"}
        features = {title: saved[key] for key, title in names.items() if key in saved}
        labels = saved["labels"]
        class_names = [str(name) for name in saved["class_names"]]
    return _image(pictures.map_of(features, labels, class_names), "t-SNE of the features")


def _bytes(workdir: str, name: str) -> bytes | None:
    return storage.read_bytes(os.path.join(workdir, name))


def _text(workdir: str, name: str) -> str | None:
    content = _bytes(workdir, name)
    return None if content is None else content.decode("utf-8", "replace")
