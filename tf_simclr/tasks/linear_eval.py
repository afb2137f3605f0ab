"""--mode=linear_eval: a linear classifier on frozen features, from few and from all labels."""

from __future__ import annotations

from absl import logging

from tf_simclr.config import DEFAULT_LABELS, Config
from tf_simclr.errors import UserError
from tf_simclr.evaluation.linear_probe import check_labels, few_label_accuracy
from tf_simclr.report import spread
from tf_simclr.tasks import judging


def run(config: Config, strategy) -> None:
    """Fits logistic regression by L-BFGS on frozen features (paper, appendix B.8)."""
    del strategy  # One device is enough: the features are frozen.
    sources = judging.labelled_splits(config)
    counts = _label_counts(config, sources[0])  # Checked before features, which take long.
    few_label, kept = [], {}
    for name, (train_h, test_h) in judging.feature_sets(config, sources):
        kept[name] = test_h
        rows = few_label_accuracy(
            train_h,
            sources[0].labels,
            test_h,
            sources[1].labels,
            labels_per_class=counts,
            draws=config.label_draws,
            seed=config.seed,
            num_l2=config.l2_sweep,
        )
        few_label += [{"features": name, **row} for row in rows]
    judging.tell(config, "linear_eval", {"few_label": few_label}, _table(few_label))
    judging.keep_embeddings(config, sources[1], kept)
    judging.refresh(config)


def _label_counts(config: Config, train) -> tuple[int | None, ...]:
    """--labels_per_class as numbers; the default without those that some class does not have.

    Raises:
      UserError: the user asks for more labels than a class has, or there are too few to learn from.
    """
    counts = config.label_counts()
    name, smallest = judging.smallest_class(train)
    too_many = [count for count in counts if count is not None and count > smallest]
    why = f"class {name!r} has only {smallest} image(s) in {train.split}"
    if too_many and config.labels_per_class != DEFAULT_LABELS:
        raise UserError(
            f"--labels_per_class={config.labels_per_class} cannot be met: {why}. Ask for at most "
            f"{smallest}, or add images."
        )
    if too_many:
        logging.warning("Skipping %s labels per class: %s.", " and ".join(map(str, too_many)), why)
    counts = tuple(count for count in counts if count not in too_many)
    try:
        check_labels(train.labels, counts, seed=config.seed)
    except UserError as error:
        raise UserError(
            f"--train_split={train.split} is not enough to learn from: {error}"
        ) from None
    return counts


def _table(rows: list[dict]) -> list[str]:
    counts = list(dict.fromkeys(row["labels_per_class"] for row in rows))
    lines = ["Linear evaluation, top-1 accuracy by labels per class (mean and std of the draws):"]
    lines.append(f"  {'':<16}" + "".join(f"{count!s:>16}" for count in counts))
    for name in dict.fromkeys(row["features"] for row in rows):
        cells = [f"{row['mean']:.1%}{spread(row)}" for row in rows if row["features"] == name]
        lines.append(f"  {name:<16}" + "".join(f"{cell:>16}" for cell in cells))
    return lines
