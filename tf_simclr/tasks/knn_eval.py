"""--mode=knn_eval: accuracy of a weighted nearest-neighbour vote on frozen features."""

from __future__ import annotations

from absl import logging

from tf_simclr.config import Config
from tf_simclr.evaluation.knn import default_k, knn_accuracy
from tf_simclr.tasks import judging


def run(config: Config, strategy) -> None:
    """Classifies the evaluation split by its nearest neighbours in the training split."""
    del strategy  # One device is enough: nothing is trained.
    sources = judging.labelled_splits(config)
    k, why = _neighbours(config, sources[0])
    accuracy = {}
    for name, (train_h, test_h) in judging.feature_sets(config, sources):
        accuracy[name] = knn_accuracy(
            train_h,
            sources[0].labels,
            test_h,
            sources[1].labels,
            k=k,
            temperature=config.knn_temperature,
        )
    lines = [f"kNN (k = {k}{why}), {sources[1].num_examples} images of {sources[1].name}:"]
    lines += [f"  {name:<16} {value:7.2%}" for name, value in accuracy.items()]
    judging.tell(config, "knn_eval", {"k": k, "top1": accuracy}, lines)
    judging.refresh(config)


def _neighbours(config: Config, train) -> tuple[int, str]:
    """(how many neighbours vote, why so many where the user has not said that number)."""
    k, why, images = config.knn_k, "", train.num_examples
    if not k:
        k, why = default_k(train.labels), f", by the size of {train.split}: {images} images"
    elif k > images:
        k, why = images, f", all of {train.split}: --knn_k={config.knn_k} is more than it has"
    name, smallest = judging.smallest_class(train)
    if k > smallest:
        advice = "; --knn_k=0 chooses k by the size of the split" if config.knn_k else ""
        logging.warning(
            "k = %d is more than the %d images that class %s has in %s: at least %d of the "
            "neighbours of its images are of other classes%s.",
            *(k, smallest, name, train.split, k - smallest, advice),
        )
    return k, why
