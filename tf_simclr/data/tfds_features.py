"""Chooses which features of a TFDS data set are the image and the label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tf_simclr.data.bad_images import listed
from tf_simclr.errors import UserError, unknown_name

_CLASS_LABEL = "class label"
MOST_CLASSES = 2**16  # Larger numbers are identifiers or measurements, not classes.


class Feature(NamedTuple):
    """A feature as a possible label."""

    kind: str  # For messages: "class label", "int64", "text", ...
    usable: bool  # Whether it is an integer scalar.
    class_names: tuple[str, ...]  # Empty if it has none.


def image_of(info) -> str:
    """The name of the image in an example.

    Raises:
      UserError: the examples have no image, or several without an obvious choice.
    """
    import tensorflow_datasets as tfds

    kind = tfds.features.Image
    images = sorted(name for name, feature in info.features.items() if type(feature) is kind)
    image = _pick(images, "image", (info.supervised_keys or (None,))[0])
    if image is None:
        raise UserError(
            f"{info.full_name!r} needs one image in each example; it has "
            f"{', '.join(images) or 'none'}. Its features: {', '.join(sorted(info.features))}."
        )
    return image


def labels_of(features, above: str = "") -> dict[str, Feature]:
    """{name: Feature} of an example's features, except images and audio.

    Args:
      features: `tfds.features.FeaturesDict`. Feature b inside feature a is named "a/b".
      above: prefix of the names: "a/" for the features inside a.
    """
    import tensorflow_datasets as tfds

    found = {}
    # By name: a data set read from disk can have them in any order (seen on Python 3.13).
    for name, feature in sorted(features.items()):
        if isinstance(feature, tfds.features.FeaturesDict):
            found.update(labels_of(feature, f"{above}{name}/"))
        elif isinstance(feature, tfds.features.ClassLabel):
            found[above + name] = Feature(_CLASS_LABEL, True, _names_of(feature))
        elif isinstance(feature, tfds.features.Text):
            found[above + name] = Feature("text", False, ())
        elif isinstance(feature, tfds.features.Sequence):
            found[above + name] = Feature("several values for each example", False, ())
        elif isinstance(feature, tfds.features.Tensor) and not isinstance(
            feature, (tfds.features.Image, tfds.features.Audio)
        ):
            dtype = np.dtype(feature.np_dtype)
            usable = feature.shape == () and dtype.kind in "iub"
            kind = dtype.name if feature.shape == () else f"{dtype.name} {list(feature.shape)}"
            found[above + name] = Feature(kind, usable, ())
    return found


def choose_label(info, features: dict[str, Feature], label: str) -> str | None:
    """The name of the feature to use as label; None if no choice is obvious.

    Unless --label names one, only class labels at the top level are candidates.

    Args:
      info: `tfds.core.DatasetInfo`.
      features: from `labels_of`.
      label: what the user asks for, or "".

    Raises:
      UserError: no feature has that name, or it is not an integer scalar.
    """
    if not label:
        supervised = (info.supervised_keys or (None, None))[1]
        class_labels = [n for n in features if features[n].kind == _CLASS_LABEL and "/" not in n]
        return _pick(class_labels, "label", supervised)
    if label not in features:
        raise unknown_name(f"feature of {info.full_name!r} for --label", label, features)
    if not features[label].usable:
        raise UserError(
            f"--label={label} of {info.full_name!r} is {features[label].kind}; a label must be a "
            f"class label or an integer scalar. {_choices(features)}"
        )
    return label


def why_unlabelled(info, features: dict[str, Feature], label: str | None) -> str:
    """A sentence that explains why there are no labels."""
    if label:
        return (
            f"its feature {label!r} is -1 for some examples: TFDS' value for labels that are "
            "withheld, as in competition test sets. Choose another split."
        )
    class_labels = [name for name in features if features[name].kind == _CLASS_LABEL]
    why = (
        "none of its features is a class label",
        "its only class label is inside another feature",
    )
    why = (*why, "several of its features are class labels")[min(len(class_labels), 2)]
    return f"{why}. {_choices(features)}"


def check_numbers(label: str, labels: np.ndarray) -> None:
    """Checks that the numbers int64 [N] of a feature can be labels.

    Raises:
      UserError: some are negative or too large.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MOST_CLASSES:
        raise UserError(
            f"--label={label}: its values are from {low} to {high}; labels must lie in 0 to "
            f"{MOST_CLASSES - 1}. Choose another feature."
        )


def _pick(names: Iterable[str], usual: str, supervised: str | None) -> str | None:
    """The feature to use if --label names none; None if no choice is obvious."""
    names = list(names)
    for name in (usual, supervised):
        if name in names:
            return name
    return names[0] if len(names) == 1 else None


def _choices(features):
    usable = [name for name in features if features[name].usable]
    usable.sort(key=lambda name: features[name].kind != _CLASS_LABEL)
    others = [f"{name} ({kind})" for name, (kind, usable, _) in features.items() if not usable]
    text = "None of its features can be a label"
    if usable:
        kinds = [f"--label={name} ({features[name].kind})" for name in usable]
        text = f"Choose one: {listed(kinds)}"
    return text + (f"; not usable: {listed(others)}." if others else ".")


def _names_of(class_label):
    return tuple(class_label.names) if class_label.num_classes else ()
