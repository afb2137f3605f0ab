"""--mode=linear_eval: accuracy of linear classifiers on frozen features, by number of labels."""

from __future__ import annotations

from tf_simclr.config import Config
from tf_simclr.report import spread
from tf_simclr.tasks import evaluate


def run(config: Config, strategy) -> None:
    """Fits logistic regression by L-BFGS on frozen features (paper, appendix B.8)."""
    evaluate.run(config, strategy, _table, keep_map=True)


def _table(probe, numbers, test) -> list[str]:
    del test
    counts = ["all" if count is None else count for count in probe.labels_per_class]
    lines = ["Linear evaluation, top-1 accuracy by labels per class (mean and std of the draws):"]
    lines.append(f"  {'':<16}" + "".join(f"{count!s:>16}" for count in counts))
    for name, found in numbers.items():
        cells = [f"{row['mean']:.1%}{spread(row)}" for row in found["few_label"]]
        lines.append(f"  {name:<16}" + "".join(f"{cell:>16}" for cell in cells))
    return lines
