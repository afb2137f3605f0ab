"""Finds the folders of a data set's splits: train/, valid/, Test_Set/ and so on."""

from __future__ import annotations

import os
import re
import unicodedata

from absl import logging

from tf_simclr.data.bad_images import listed
from tf_simclr.data.listing import Scan
from tf_simclr.errors import UserError

# Names in use: train/val (torchvision's ImageNet), train/valid/test (fastai, Roboflow), all of
# these but trn and tst (Hugging Face's imagefolder), Training/Testing and training_set (Kaggle).
_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}
_PATTERN = re.compile(r"(\w+?)[-_. ]?(set|data|images|split)?")  # Train_Set, trainset, "test data".
_LIKE = re.compile(r"(?<![a-z])(" + "|".join(_SPLIT_OF) + r")(set)?(?![a-z])")  # seg_train, val2017


def text_of(name: bytes) -> str:
    """A file name as text, in Unicode's composed form (NFC).

    The same name can be stored in two forms, as Macs decompose letters with accents. Bytes that are
    not UTF-8 stay distinct, as surrogates.
    """
    return unicodedata.normalize("NFC", os.fsdecode(name))


def split_named(name: str) -> str | None:
    """The split that a folder's name means: "train", "validation", "test", or None."""
    match = _PATTERN.fullmatch(name.casefold())
    return _SPLIT_OF.get(match[1]) if match else None


def find_split(scan: Scan, folder: bytes, split: str) -> tuple[bytes, list[bytes]]:
    """Finds the folder of a split.

    A folder has splits if its sub-folders include a training split and another split, or if it
    holds only sub-folders named as splits. Any other folder is a single set, the split "train".

    Args:
      scan: lists folders.
      folder: the folder of the data set.
      split: "train", "test", "val", ... A sub-folder matches by its exact name, else by its name
        in another case, else by another usual name of the split. "test" falls back to the
        validation split.

    Returns:
      (the split's folder, all folders named as splits, which share one numbering of classes). The
      second is empty if the folder is a single set.

    Raises:
      UserError: no folder matches the split, or several match equally well.
    """
    contents = scan(folder)
    split_of = {name: split_named(text_of(name)) for name in contents.folders}
    found = set(split_of.values()) - {None}
    only_splits = split_of and None not in split_of.values() and not contents.images
    if not only_splits and not ("train" in found and len(found) > 1):
        if split != "train":
            raise UserError(
                f"no split {split!r}: the folder {os.fsdecode(folder)!r} has no sub-folders named "
                "as splits, so all its images are the split 'train'. Move images into sub-folders "
                "train and test, or hold out a slice: "
                f"--train_split='train[:90%]' --eval_split='train[90%:]'.{scan.passed_over()}"
            )
        return folder, []
    name = _choose(scan, folder, split_of, split)
    _report(folder, contents, split_of, name, split)
    known = [os.path.join(folder, other) for other in split_of if split_of[other]]
    return os.path.join(folder, name), known


def warn_of_split_names(folder: bytes, classes: set[bytes], without_images: set[bytes]):
    """Warns if folders that are read as classes look like splits.

    Args:
      folder: the folder of the data set.
      classes: the names of its class folders.
      without_images: those that hold only sub-folders, as a split with classes does.
    """
    alike = {name for name in classes if _LIKE.search(text_of(name).casefold())}
    if len(classes) > 1 and alike and (alike == classes or alike & without_images):
        logging.warning(
            "The folders %s in %r are read as classes, but their names look like splits. If they "
            "are splits, rename them to train, valid and test, or pass --data_dir=<one of them>.",
            listed([os.fsdecode(name) for name in sorted(alike)]),
            os.fsdecode(folder),
        )


def warn_of_nested_splits(folder: bytes, names: set[bytes]):
    """Warns if the only folder with images holds splits, which are then read as a single set.

    Args:
      folder: the folder.
      names: the names of the folders in it.
    """
    splits = {split_named(text_of(name)) for name in names} - {None}
    if "train" in splits and len(splits) > 1:
        logging.warning(
            "All images are in %r, whose folders %s look like splits, and are read as one set. To "
            "read them as splits pass --data_dir=%s.",
            os.fsdecode(folder),
            listed([os.fsdecode(name) for name in sorted(names)]),
            os.fsdecode(folder),
        )


def _choose(scan, folder, split_of, split):
    """The name of the folder that matches a split."""
    wanted, text = split_named(split), unicodedata.normalize("NFC", split)
    matchers = (
        lambda name: text_of(name) == text,
        lambda name: text_of(name).casefold() == text.casefold(),
        lambda name: wanted and split_of[name] == wanted,
        lambda name: wanted == "test" and split_of[name] == "validation",
    )
    for matches in matchers:
        names = sorted(filter(matches, split_of))
        if len(names) == 1:
            return names[0]
        if names:
            raise UserError(
                f"the split {split!r} is ambiguous: the folders "
                f"{listed([os.fsdecode(name) for name in names])} in {os.fsdecode(folder)!r} all "
                "match. Pass the exact name of one as --train_split or --eval_split, or rename the "
                "others."
            )
    names = sorted(map(text_of, split_of), key=lambda name: (split_named(name) != "train", name))
    raise UserError(
        f"no split {split!r}: the folder {os.fsdecode(folder)!r} has the splits "
        f"{', '.join(names)}.{scan.passed_over()}"
    )


def _report(folder, contents, split_of, name, split):
    """Logs which folder is the split, and warns of unused folders and images."""
    if text_of(name) != unicodedata.normalize("NFC", split):
        logging.info("The split %r is the folder %r.", split, os.fsdecode(name))
    same = [other for other in split_of if split_of[name] and split_of[other] == split_of[name]]
    unnamed = [other for other in split_of if not split_of[other]]
    unused = sorted({*same, *unnamed} - {name})
    if unused:
        logging.warning(
            "Ignoring %s in %r: the split %r is read from the folder %r only.",
            listed([os.fsdecode(other) for other in unused]),
            os.fsdecode(folder),
            split,
            os.fsdecode(name),
        )
    if contents.images:
        logging.warning(
            "%d images directly in %r are not used: they lie outside of its splits' folders.",
            len(contents.images),
            os.fsdecode(folder),
        )
