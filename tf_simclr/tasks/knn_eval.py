"""--mode=knn_eval: accuracy of a weighted vote of nearest neighbours on frozen features."""

from __future__ import annotations

from tf_simclr.config import Config
from tf_simclr.tasks import evaluate


def run(config: Config, strategy) -> None:
    """Classifies the evaluation split by its nearest neighbours in the training split."""
    evaluate.run(config, strategy, _lines)


def _lines(knn, numbers, test) -> list[str]:
    lines = [f"kNN (k = {knn.k}{knn.why}), {test.num_examples} images of {test.name}:"]
    return lines + [f"  {name:<16} {found['top1']:7.2%}" for name, found in numbers.items()]
