"""Evaluators: objects that take features with labels and return named numbers.

A mode runs one on the features of whole splits; the training loop can run the same one during
training. To add one, write a class like those below and name it in `tasks/evaluate.py`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
from absl import logging

from tf_simclr.errors import UserError
from tf_simclr.evaluation.knn import default_k, knn_accuracy
from tf_simclr.evaluation.labelled import Labelled
from tf_simclr.evaluation.linear_probe import check_labels, few_label_accuracy

DEFAULT_LABELS = (1, 5, 10, None)


class Evaluator(abc.ABC):
    """Evaluates features. Subclasses are frozen dataclasses whose fields are the settings.

    Attributes:
      name: a short name such as "knn"; metrics.jsonl then calls the number "top1" "knn_top1".
    """

    name: str

    def prepare(self, train: Labelled, test: Labelled) -> Evaluator:
        """Checks the labels; called before any features are computed.

        Returns:
          The evaluator, with all settings that depend on the labels resolved.

        Raises:
          UserError: the labels are not sufficient.
        """
        del train, test
        return self

    @abc.abstractmethod
    def evaluate(self, train: Labelled, test: Labelled) -> dict[str, Any]:
        """Evaluates features.

        Args:
          train: features to learn from.
          test: features to predict the classes of.

        Returns:
          {name: number}; shares are in [0, 1]. Values that are not numbers are for `summary`.

        Raises:
          UserError: features or labels that do not fit or are not finite.
        """

    def summary(self, numbers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The contents of results/<mode>.json, ready for JSON.

        Args:
          numbers: {name of the features: result of `evaluate`}.
        """
        return {"features": numbers}


@dataclasses.dataclass(frozen=True)
class KNN(Evaluator):
    """A vote of the k nearest neighbours (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Attributes:
      k: neighbours that vote; 0: `default_k` of the training labels.
      temperature: temperature T > 0 of the votes.
      why: an explanation of how `prepare` chose k; "" if k was given.
    """

    k: int = 0
    temperature: float = 0.07
    why: str = ""

    name = "knn"

    def prepare(self, train: Labelled, test: Labelled) -> KNN:
        """Chooses k if it is 0, limits it to N, and warns if it exceeds the smallest class."""
        k, why, images = self.k, "", len(train.labels)
        if not k:
            k, why = default_k(train.labels), f", by the size of {train.split}: {images} images"
        elif k > images:
            k, why = images, f", all of {train.split}: --knn_k={self.k} is more than it has"
        name, smallest = train.smallest_class()
        if k > smallest:
            advice = "; --knn_k=0 chooses k by the size of the split" if self.k else ""
            logging.warning(
                "k = %d is more than the %d images that class %s has in %s: at least %d of the "
                "neighbours of its images are of other classes%s.",
                *(k, smallest, name, train.split, k - smallest, advice),
            )
        return dataclasses.replace(self, k=k, why=why)

    def evaluate(self, train: Labelled, test: Labelled) -> dict[str, Any]:
        """Returns "top1", the share of test features whose class wins the vote."""
        k = self.k or default_k(train.labels)
        options = {"k": k, "temperature": self.temperature}
        return {"top1": knn_accuracy(train.h, train.labels, test.h, test.labels, **options)}

    def summary(self, numbers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {"k": self.k, "top1": {name: found["top1"] for name, found in numbers.items()}}


@dataclasses.dataclass(frozen=True)
class LinearProbe(Evaluator):
    """Logistic regression by L-BFGS, from few and from all labels (paper, appendix B.8).

    Attributes:
      labels_per_class: how many labels to learn from; None stands for all.
      draws, seed, num_l2: as `few_label_accuracy`.
    """

    labels_per_class: tuple[int | None, ...] = DEFAULT_LABELS
    draws: int = 20
    seed: int = 0
    num_l2: int = 45

    name = "linear"

    def prepare(self, train: Labelled, test: Labelled) -> LinearProbe:
        """Removes default counts that are larger than the smallest class."""
        counts = self.labels_per_class
        name, smallest = train.smallest_class()
        too_many = [count for count in counts if count is not None and count > smallest]
        why = f"class {name!r} has only {smallest} image(s) in {train.split}"
        if too_many and counts != DEFAULT_LABELS:
            asked = ",".join("all" if count is None else str(count) for count in counts)
            raise UserError(
                f"--labels_per_class={asked} cannot be met: {why}. Ask for at most {smallest}, or "
                "add images."
            )
        if too_many:
            skipped = " and ".join(map(str, too_many))
            logging.warning("Skipping %s labels per class: %s.", skipped, why)
        counts = tuple(count for count in counts if count not in too_many)
        try:
            check_labels(train.labels, counts, seed=self.seed)
        except UserError as error:
            raise UserError(
                f"--train_split={train.split} is not enough to learn from: {error}"
            ) from None
        return dataclasses.replace(self, labels_per_class=counts)

    def evaluate(self, train: Labelled, test: Labelled) -> dict[str, Any]:
        """Returns "top1" with the most labels, and "few_label", a row for each count."""
        rows = few_label_accuracy(
            *(train.h, train.labels, test.h, test.labels),
            labels_per_class=self.labels_per_class,
            draws=self.draws,
            seed=self.seed,
            num_l2=self.num_l2,
        )
        return {"top1": float(rows[-1]["mean"]), "few_label": rows}

    def summary(self, numbers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        rows = [
            {"features": name, **row}
            for name, found in numbers.items()
            for row in found["few_label"]
        ]
        return {"few_label": rows}


def scalars(evaluator: Evaluator, numbers: dict[str, Any]) -> dict[str, float]:
    """The numbers that `evaluate` returned, prefixed with the evaluator's name, for metrics."""
    return {
        f"{evaluator.name}_{name}": float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    }
