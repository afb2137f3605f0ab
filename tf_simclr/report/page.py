"""report.html: one page of sections; it loads nothing and escapes everything it shows."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Callable

from tf_simclr import storage
from tf_simclr.report import sections
from tf_simclr.report.run import Run

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.sub { color: #666; margin-top: .2rem; } img { max-width: 100%; }
div.wide { overflow-x: auto; } div.wide table { overflow-wrap: normal; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem; text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 2px solid #222; } tbody tr + tr td { border-top: 1px solid #ddd; }
tr.ours td { font-weight: 600; } td small { color: #777; font-weight: 400; }
pre { background: #f5f5f5; padding: .8rem; font-size: .8rem; columns: 2 20rem;
      white-space: pre-wrap; }
@media (max-width: 40rem) { div.wide img { max-width: none; width: 40rem; } }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      title: its heading, plain text.
      content: from the run to HTML, in which everything that was read is escaped; "" or None where
        the run has nothing for it, which leaves the section out.
      modes: the modes whose results it shows.
    """

    title: str
    content: Callable[[Run], str | None]
    modes: tuple[str, ...] = ()


def _other_results(run: Run) -> str:
    shown = {mode for section in SECTIONS for mode in section.modes}
    return sections.numbers(run, [mode for mode in run.modes if mode not in shown])


# The page from top to bottom. To add a section, write its function and add an entry.
SECTIONS = [
    Section("How good is the representation?", sections.linear_eval, ("linear_eval",)),
    Section("Nearest neighbours", sections.knn_eval, ("knn_eval",)),
    Section("Fine-tuning", sections.finetune, ("finetune",)),
    Section("Other results", _other_results),
    Section("Training", sections.training, ("pretrain", "training")),
    Section("The views", sections.views),
    Section("A map of the representation (t-SNE)", sections.embedding_map),
    Section("Settings", sections.settings),
]


def write_report(workdir: str) -> str:
    """Writes WORKDIR/report.html from what the run has left there so far; parts may be missing.

    Args:
      workdir: local or any scheme of `tf.io.gfile`.

    Returns:
      The path of the page.

    Raises:
      UserError: a file that a section reads is damaged, or the page cannot be written. An earlier
        page stays.
    """
    run = Run(workdir)
    with run.naming_damage():
        parts = [sections.head(run)]
    for section in SECTIONS:
        with run.naming_damage():
            content = section.content(run)
        if content:
            parts.append(f"<h2>{html.escape(section.title)}</h2>{content}")
    page = document("SimCLR", "".join(parts))
    path = os.path.join(workdir, "report.html")
    # Surrogates, as in file names that are not UTF-8, cannot be encoded.
    storage.write_whole(path, page.encode("utf-8", "backslashreplace"))
    return path


def document(title: str, body: str, style: str = "") -> str:
    """A whole page in the house's style.

    Args:
      title: of the window, plain text.
      body: HTML, in which everything from outside is escaped.
      style: more CSS.
    """
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style>"
        f"<body>{body}</body></html>\n"
    )
