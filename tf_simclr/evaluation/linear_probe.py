"""Linear evaluation: logistic regression by L-BFGS on frozen features (paper, appendix B.8).

With all labels the l2 strength is chosen on a validation part of the training set. With a few
labels per class there are none to spare: all feature sets use one fixed strength.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tf_simclr.errors import UserError
from tf_simclr.evaluation.labelled import checked_features, checked_labels
from tf_simclr.evaluation.progress import reported

_MAX_ITERATIONS = 500
_VALIDATION = 0.1  # Share of the training set on which the l2 strength is chosen.
_FEW_LABEL_L2 = 1.0  # For standardised features; scikit-learn's default.
# Features times classes below which threads do not pay off: on two busy cores they made the fits
# on the digits 20 times slower.
_SMALL = 10**8


def linear_probe(
    train_h: np.ndarray,
    train_y: np.ndarray,
    test_h: np.ndarray,
    test_y: np.ndarray,
    *,
    num_l2: int = 45,
    validation_fraction: float = _VALIDATION,
    seed: int = 0,
) -> dict[str, Any]:
    """Multinomial logistic regression: chooses l2 on a validation split, then refits on all.

    SimCLR, arXiv:2002.05709, appendix B.8: L-BFGS, 45 logarithmically spaced l2 strengths from
    1e-6 to 1e5, refit on train and validation. Features are first standardised with the training
    set's statistics. All is computed in float64 and in memory: about 32 bytes per feature value.

    Args:
      train_h: [N, D] float features.
      train_y: [N] integer labels from 0.
      test_h: [M, D] float features.
      test_y: [M] integer labels.
      num_l2: number of strengths to try; 1: the middle of the range.
      validation_fraction: validation share of the training set, in (0, 1).
      seed: selects the validation part.

    Returns:
      "top1": accuracy on the test set; "l2": the chosen strength; "validation_top1": its accuracy
      on the validation part; "unconverged": 1 if L-BFGS did not converge in the last fit, else 0;
      "sweep_unconverged": how many fits of the sweep did not converge.

    Raises:
      UserError: an argument is out of range or does not fit, or there is only one class.
    """
    _check_sweep(num_l2)
    if not 0 < validation_fraction < 1:
        raise UserError(
            f"validation_fraction must lie in (0, 1); received {validation_fraction!r}."
        )
    train_h, train_y, test_h, test_y = _prepared(train_h, train_y, test_h, test_y)
    held_out, fitting = _validation_split(train_y, validation_fraction, seed)
    l2, validation_top1, sweep_unconverged = _best_l2(
        (train_h[fitting], train_y[fitting]), (train_h[held_out], train_y[held_out]), num_l2
    )
    model, unconverged = _fit(_model(l2), train_h, train_y)
    return {
        "top1": float(model.score(test_h, test_y)),
        "l2": l2,
        "validation_top1": validation_top1,
        "unconverged": unconverged,
        "sweep_unconverged": sweep_unconverged,
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

    A draw selects the same examples for all feature sets, with the same classifier and l2, so that
    feature sets can be compared. Features are standardised with the statistics of all training
    features, which needs no labels.

    Args:
      train_h, train_y, test_h, test_y: as in `linear_probe`.
      labels_per_class: counts; None: all labels, by `linear_probe`.
      draws: random draws per count.
      seed: seed of the draws.
      num_l2: as in `linear_probe`.

    Returns:
      A dict for each count: "labels_per_class" (a number or "all"), "mean" and "std" of the top-1
      accuracy over the draws, "draws", and the number of "unconverged" fits; for "all" also the
      other results of `linear_probe`.

    Raises:
      UserError: `check_labels` fails, or an argument is out of range.
    """
    if not draws >= 1:
        raise UserError(f"draws must be at least 1; received {draws!r}.")
    _check_sweep(num_l2)
    train_h, train_y, test_h, test_y = _prepared(train_h, train_y, test_h, test_y)
    check_labels(train_y, labels_per_class, seed=seed)
    members = [np.flatnonzero(train_y == label) for label in np.unique(train_y)]
    rows = []
    for count in labels_per_class:
        if count is None:
            probe = linear_probe(train_h, train_y, test_h, test_y, num_l2=num_l2, seed=seed)
            row = {"labels_per_class": "all", "mean": probe.pop("top1"), "std": 0.0, "draws": 1}
            rows.append({**row, **probe})
            continue
        scores, unconverged = [], 0
        for draw in reported(range(draws), draws, f"linear, {count} label(s) per class"):
            rng = np.random.default_rng([seed, count, draw])
            chosen = np.concatenate([rng.choice(m, count, replace=False) for m in members])
            model, failed = _fit(_model(_FEW_LABEL_L2), train_h[chosen], train_y[chosen])
            scores.append(model.score(test_h, test_y))
            unconverged += failed
        row = {"labels_per_class": count, "mean": float(np.mean(scores))}
        rows.append({**row, "std": float(np.std(scores)), "draws": draws})
        rows[-1]["unconverged"] = unconverged
    return rows


def check_labels(
    train_y: np.ndarray, labels_per_class: tuple[int | None, ...], *, seed: int = 0
) -> None:
    """Checks the labels for `few_label_accuracy`, before there are features.

    Args:
      train_y: [N] integer labels from 0.
      labels_per_class, seed: as in `few_label_accuracy`.

    Raises:
      UserError: there is only one class, or a class has fewer examples than a count.
    """
    sizes = np.unique(train_y, return_counts=True)[1]
    if len(sizes) < 2:
        raise UserError(f"train_y must hold at least two classes; received {len(sizes)}.")
    for count in labels_per_class:
        if count is not None and not 1 <= count <= sizes.min():
            raise UserError(
                f"labels_per_class must lie in [1, {sizes.min()}], the smallest class of the "
                f"training split; received {count!r}."
            )
    if None in labels_per_class:
        _validation_split(train_y, _VALIDATION, seed)


def _validation_split(train_y, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows held out to choose the l2 strength, rows to fit on)."""
    order = np.random.default_rng(seed).permutation(len(train_y))
    held = max(int(round(fraction * len(order))), 1)
    held_out, fitting = order[:held], order[held:]
    if len(np.unique(train_y[fitting])) < 2:
        raise UserError(
            "train_y must hold at least two classes outside the validation part; received "
            f"{len(train_y)} labels of {len(np.unique(train_y))} class(es)."
        )
    return held_out, fitting


def _best_l2(fitting, held_out, num_l2) -> tuple[float, float, int]:
    """(strength, its validation top-1, fits that did not converge), from (features, labels)."""
    strengths = np.logspace(-6, 5, num_l2) if num_l2 > 1 else [10.0**-0.5]
    best, unconverged = (-1.0, 0.0), 0
    # From the strongest down, each fit starts where the last ended. The optima are the same (the
    # problem is convex), in a third of the iterations.
    model = _model(strengths[-1], warm_start=True)
    for l2 in reported(strengths[::-1], num_l2, "linear, all labels: l2 sweep"):
        model, failed = _fit(model.set_params(C=1.0 / l2), *fitting)
        unconverged += failed
        best = max(best, (float(model.score(*held_out)), float(l2)))  # Ties go to the stronger.
    return best[1], best[0], unconverged


def _model(l2: float, **options):
    """Unfitted logistic regression, which minimises the sum of losses + l2 / 2 |W|^2."""
    from sklearn.linear_model import LogisticRegression  # Slow to import.

    return LogisticRegression(C=1.0 / l2, max_iter=_MAX_ITERATIONS, **options)


def _fit(model, h, y):
    """(the fitted model; 1 if L-BFGS stopped before it converged, else 0)."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    threads = 1 if h.size * (y.max() + 1) < _SMALL else None
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(threads):
        warnings.simplefilter("always")
        model.fit(h, y)
    return model, int(any(issubclass(w.category, ConvergenceWarning) for w in caught))


def _prepared(train_h, train_y, test_h, test_y):
    """Checks all four and standardises features, in float64, with the training statistics."""
    train_h, test_h = checked_features(train_h, test_h)
    train_y = checked_labels("train_y", train_y, train_h)
    test_y = checked_labels("test_y", test_y, test_h)
    train_h, test_h = train_h.astype(np.float64), test_h.astype(np.float64)
    mean, std = train_h.mean(axis=0), train_h.std(axis=0)
    # Constant features are not divided: their deviation is only float32 rounding.
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), std.max()), std, 1.0)
    return (train_h - mean) / std, train_y, (test_h - mean) / std, test_y


def _check_sweep(num_l2):
    if not num_l2 >= 1:
        raise UserError(f"num_l2 must be at least 1; received {num_l2!r}.")
