"""Linear evaluation: logistic regression by L-BFGS on frozen features (paper, appendix B.8).

With all labels the l2 strength is chosen on a validation part of the training set. With a few
labels a class there is none to spare: one fixed strength serves every feature set alike.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from absl import logging

from tf_simclr.errors import UserError

_MAX_ITERATIONS = 500
_FEW_LABEL_L2 = 1.0  # On standardised features; scikit-learn's default.


def linear_probe(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    test_y: np.ndarray,
    *,
    num_l2: int = 45,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Multinomial logistic regression with l2 chosen on a validation split, refit on everything.

    SimCLR, arXiv:2002.05709, appendix B.8: L-BFGS, 45 logarithmically spaced l2 strengths from
    1e-6 to 1e5, refit on train and validation. Features are standardised first.

    Args:
      train_h, test_h: [N, D], [M, D] float features.
      train_y, test_y: [N], [M] integer labels.
      num_l2: strengths tried.
      validation_fraction: of the training set, in (0, 1).
      seed: which part that is.

    Returns:
      "top1" on the test set, "l2" chosen, "validation_top1", "unconverged" fits of the last one.

    Raises:
      UserError: an argument is out of range, or a class is missing.
    """
    if num_l2 < 1:
        raise UserError(f"num_l2 must be at least 1; received {num_l2!r}.")
    if not 0 < validation_fraction < 1:
        raise UserError(
            f"validation_fraction must lie in (0, 1); received {validation_fraction!r}."
        )
    train_h, test_h = _standardised(train_h, test_h)
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    order = np.random.default_rng(seed).permutation(len(train_y))
    held = max(int(round(validation_fraction * len(order))), 1)
    validation, fitting = order[:held], order[held:]
    if len(np.unique(train_y[fitting])) < 2:
        raise UserError("linear evaluation needs at least two classes in its training part.")
    best = (-1.0, 0.0)
    for l2 in np.logspace(-6, 5, num_l2):
        model, _ = _fit(train_h[fitting], train_y[fitting], l2)
        score = model.score(train_h[validation], train_y[validation])
        logging.debug("l2 %.2g: validation top-1 %.2f %%", l2, 100 * score)
        best = max(best, (score, l2))  # Of equals the stronger l2: the simpler classifier.
    model, converged = _fit(train_h, train_y, best[1])
    return {
        "top1": float(model.score(test_h, test_y)),
        "l2": float(best[1]),
        "validation_top1": float(best[0]),
        "unconverged": int(not converged),
    }


def few_label_accuracy(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    test_y: np.ndarray,
    *,
    labels_per_class: tuple[int | None, ...] = (1, 5, 10, None),
    draws: int = 20,
    seed: int = 0,
    num_l2: int = 45,
) -> list[dict[str, Any]]:
    """Test accuracy of a linear classifier that sees only a few labels of each class.

    Draw d of a count takes the same examples whatever the features, and the classifier and its l2
    are the same, so feature sets can be compared. Features are standardised by the statistics of
    all training features, which needs no labels.

    Args:
      train_h, train_y, test_h, test_y: as `linear_probe`.
      labels_per_class: counts; None stands for all labels, by `linear_probe`.
      draws: random draws of each count.
      seed: of the draws.
      num_l2: for `linear_probe`.

    Returns:
      For each count a dict: "labels_per_class" (a number or "all"), "mean" and "std" of the top-1
      accuracy over the draws, "draws", "unconverged" fits.

    Raises:
      UserError: a class has fewer examples than asked for, or an argument is out of range.
    """
    if draws < 1:
        raise UserError(f"draws must be at least 1; received {draws!r}.")
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    members = [np.flatnonzero(train_y == label) for label in np.unique(train_y)]
    standard_train, standard_test = _standardised(train_h, test_h)
    rows = []
    for count in labels_per_class:
        if count is None:
            probe = linear_probe(train_h, train_y, test_h, test_y, num_l2=num_l2, seed=seed)
            row = {"labels_per_class": "all", "mean": probe["top1"], "std": 0.0, "draws": 1}
            rows.append({**row, "l2": probe["l2"], "unconverged": probe["unconverged"]})
            continue
        smallest = min(map(len, members))
        if not 1 <= count <= smallest:
            raise UserError(
                f"labels_per_class must lie in [1, {smallest}], the smallest class of the training "
                f"split; received {count!r}."
            )
        scores, unconverged = [], 0
        for draw in range(draws):
            rng = np.random.default_rng([seed, count, draw])
            chosen = np.concatenate([rng.choice(m, count, replace=False) for m in members])
            model, converged = _fit(standard_train[chosen], train_y[chosen], _FEW_LABEL_L2)
            scores.append(model.score(standard_test, test_y))
            unconverged += not converged
        row = {"labels_per_class": count, "mean": float(np.mean(scores))}
        row.update(std=float(np.std(scores)), draws=draws, unconverged=unconverged)
        rows.append(row)
    return rows


def _fit(h, y, l2):
    """(fitted model, whether L-BFGS converged). l2 stands beside the sum of the losses."""
    from sklearn.exceptions import ConvergenceWarning  # Slow to import.
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = LogisticRegression(C=1.0 / l2, max_iter=_MAX_ITERATIONS).fit(h, y)
    return model, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _standardised(train_h, test_h):
    """Both with the mean and standard deviation of the training features taken out."""
    train_h, test_h = np.asarray(train_h, np.float64), np.asarray(test_h, np.float64)
    if train_h.ndim != 2 or test_h.ndim != 2 or train_h.shape[1] != test_h.shape[1]:
        raise UserError(
            f"features must be [N, D] and [M, D]; received {train_h.shape} and {test_h.shape}."
        )
    mean, std = train_h.mean(axis=0), train_h.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)  # A constant feature stays constant.
    return (train_h - mean) / std, (test_h - mean) / std
