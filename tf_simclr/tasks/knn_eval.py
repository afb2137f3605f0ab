"""--mode=knn_eval: accuracy of a weighted nearest-neighbour vote on frozen features."""

from __future__ import annotations

from tf_simclr.config import Config
from tf_simclr.evaluation.knn import knn_accuracy
from tf_simclr.tasks import judging


def run(config: Config, strategy) -> None:
    """Classifies the evaluation split by its nearest neighbours in the training split."""
    del strategy  # One device is enough: nothing is trained.
    sources = judging.labelled_splits(config)
    accuracy = {}
    for name, (train_h, test_h) in judging.feature_sets(config, sources):
        accuracy[name] = knn_accuracy(
            train_h,
            sources[0].labels,
            test_h,
            sources[1].labels,
            k=config.knn_k,
            temperature=config.knn_temperature,
        )
    lines = [f"kNN (k = {config.knn_k}), {sources[1].num_examples} images of {sources[1].name}:"]
    lines += [f"  {name:<16} {value:7.2%}" for name, value in accuracy.items()]
    judging.conclude(config, "knn_eval", {"k": config.knn_k, "top1": accuracy}, lines)
