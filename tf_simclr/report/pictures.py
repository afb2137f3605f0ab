"""The pictures, as PNG bytes. Matplotlib's object interface: no global state, no display."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_simclr.errors import printable

# The palette of Okabe and Ito, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
GREY = "#7F7F7F"
_BY_FEATURES = {"trained encoder": BLUE, "random encoder": GREY, "raw pixels": ORANGE}
_LEVELS = (
    ("untrained_level", "untrained: random embeddings", ":"),
    ("chance_level", "chance: identical embeddings", "--"),
)
_MOST_POINTS = 1500  # In a t-SNE map; more points overlap and take long.


def view_grid(path: str, images: np.ndarray) -> None:
    """Writes a PNG of pairs of views: one pair per column, the first view above the second.

    Args:
      path: local or any scheme of `tf.io.gfile`.
      images: float [n, 2, H, W, C] in [0, 1]; if C is neither 1 nor 3, the first channel is shown.
    """
    images = images if images.shape[-1] in (1, 3) else images[..., :1]
    scale = max(1, 96 // images.shape[2])  # Small images are enlarged, pixel by pixel.
    images = np.repeat(np.repeat(images, scale, axis=2), scale, axis=3)
    margin = [[0, 0], [0, 0], [2, 2], [2, 2], [0, 0]]
    images = np.pad(images, margin, constant_values=1.0)
    n, _, height, width, channels = images.shape
    grid = images.transpose(1, 2, 0, 3, 4).reshape(2 * height, n * width, channels)
    png = tf.io.encode_png(tf.cast(np.round(np.clip(grid, 0, 1) * 255), tf.uint8)).numpy()
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(png)


class Curve(NamedTuple):
    """A metric over the steps.

    Attributes:
      axis: its place in `_AXES`.
      metric: its name in metrics.jsonl.
      label: what the legend says.
      color: of the line.
    """

    axis: int
    metric: str
    label: str
    color: str


_AXES = ("Loss", "Accuracy", "Embeddings and learning rate")
_ACCURACY = 1  # The axis from 0 to 100 %.
CURVES = [
    Curve(0, "loss", "loss", BLUE),
    Curve(1, "contrastive_top1", "contrastive top-1", BLUE),
    Curve(1, "contrastive_top5", "contrastive top-5", GREEN),
    Curve(1, "probe_top1", "online probe top-1", ORANGE),
    Curve(1, "knn_top1", "kNN top-1 on the evaluation split", PURPLE),
    Curve(1, "top1", "training top-1", BLUE),
    Curve(2, "embedding_std", "embedding std (0 = collapse)", BLUE),
    Curve(2, "alignment", "alignment (lower = closer positives)", GREEN),
    Curve(2, "learning_rate", "learning rate", ORANGE),
]


def curves(lines: list[dict]) -> bytes:
    """The metrics of `CURVES` over the steps, and the levels of the loss.

    Args:
      lines: of metrics.jsonl. A metric may be absent from, or not finite in, any of them: the
        points that exist are connected, with a marker each where some are missing.

    Returns:
      A PNG.
    """
    figure, axes = _figure(1, len(_AXES), (12, 3.4))
    for curve in CURVES:
        points = [
            (line["step"], float(line[curve.metric])) for line in lines if curve.metric in line
        ]
        points = [point for point in points if np.isfinite(point[1])]
        if points:
            marker = "o" if len(points) < len(lines) or len(points) == 1 else ""
            axes[curve.axis].plot(
                *zip(*points), color=curve.color, label=curve.label, marker=marker, markersize=4
            )
    for name, label, style in _LEVELS:
        if name in lines[-1]:
            axes[0].axhline(lines[-1][name], color=GREY, ls=style, label=label)
    axes[_ACCURACY].set_ylim(0, 1)
    axes[_ACCURACY].yaxis.set_major_formatter("{x:.0%}")
    for ax, title in zip(axes, _AXES):
        ax.set_title(title)
        ax.set_xlabel("step")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=8)
    return _png(figure)


def accuracy_bars(rows: list[dict]) -> bytes:
    """Accuracy by labels per class, a bar for each feature set, with the spread of the draws."""
    figure, (ax,) = _figure(1, 1, (8, 3.6))
    counts = list(dict.fromkeys(row["labels_per_class"] for row in rows))
    names = list(dict.fromkeys(row["features"] for row in rows))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        mine = {row["labels_per_class"]: row for row in rows if row["features"] == name}
        x = np.arange(len(counts)) + (i - (len(names) - 1) / 2) * width
        mean = [mine[count]["mean"] for count in counts]
        std = [mine[count]["std"] for count in counts]
        color = _BY_FEATURES.get(name, GREEN)
        bars = ax.bar(x, mean, width * 0.94, yerr=std, label=name, color=color, capsize=2)
        labels = [f"{100 * m:.0f}" for m in mean]
        ax.bar_label(bars, labels, label_type="center", color="white", fontsize=9)
    ax.set_xticks(range(len(counts)), [count_name(count) for count in counts])
    ax.set_ylim(0, 1.0)
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.set_title("Top-1 accuracy of a linear classifier, by number of labels")
    ax.legend(frameon=False, ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return _png(figure)


def count_name(count) -> str:
    """How to call a number of labels per class."""
    return "all labels" if count == "all" else f"{count} per class"


def map_of(features: dict[str, np.ndarray], labels, class_names) -> bytes:
    """t-SNE maps of feature sets side by side, coloured by class."""
    from matplotlib import colormaps
    from sklearn.manifold import TSNE

    figure, axes = _figure(1, len(features), (5.4 * len(features), 4.6))
    count = len(next(iter(features.values())))
    shown = np.random.default_rng(0).permutation(count)[:_MOST_POINTS]
    palette = colormaps["tab10" if len(class_names) <= 10 else "gist_rainbow"]
    for ax, (name, h) in zip(axes, features.items()):
        perplexity = min(30, max(len(shown) // 4, 1))
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(h[shown])
        for label in range(len(class_names)):
            mine = points[labels[shown] == label]
            color = palette(label if len(class_names) <= 10 else label / len(class_names))
            ax.scatter(*mine.T, s=8, color=color, label=f"class {label}")
        ax.set_title(name)
        ax.set_xticks([])
        ax.set_yticks([])
    if len(class_names) <= 20:
        legend = axes[-1].legend(
            frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, markerscale=2
        )
        # Not as labels, which leave out names that begin with "_" and take "$" for mathematics.
        for text, class_name in zip(legend.get_texts(), class_names):
            text.set(text=printable(class_name), parse_math=False, usetex=False)
    return _png(figure)


def _figure(rows, columns, size):
    from matplotlib.figure import Figure  # Slow to import.

    figure = Figure(figsize=size, layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns))
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.25)
        ax.set_axisbelow(True)
    return figure, axes


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
