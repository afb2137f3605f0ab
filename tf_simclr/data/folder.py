"""A folder of image files as a source: any depth, any sizes, labels where sub-folders give them."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tf_simclr.data.sources import Source, decode_image, fingerprint, slice_of
from tf_simclr.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
MOST_PIXELS = 100_000_000  # A larger image is taken for a decompression bomb.

_SPLIT_FOLDERS = ("train", "test", "val", "validation")
_BAD_LISTED = 5


def folder_source(
    root: str | None, split: str, channels: int, skip_bad_images: bool = False
) -> Source:
    """Opens a folder; see `open_source`.

    A folder with sub-folders train/, test/, val/ or validation/ has those splits; any other is one
    set, called train. Where all images lie in at least two sub-folders, those are the classes.
    """
    if not root or not os.path.isdir(root):
        raise UserError(f"data_dir={root!r} is no folder; give the folder with the images.")
    name = split.split("[")[0]
    base = _base_of(root, name)
    files = sorted(_files_below(base))
    if not files:
        raise UserError(
            f"no images below {base!r}: looked for {', '.join(SUFFIXES)} at any depth, hidden "
            "files left out."
        )
    empty = [path for path, size in files if not size]
    if empty and not skip_bad_images:
        raise bad_images_error(base, empty, len(files))
    files = [(path, size) for path, size in files if size]
    bad = []
    if skip_bad_images:
        reader = _reader([path for path, _ in files], base)
        bad = [files[i][0] for i in undecodable(lambda i: reader(tf.constant(i)), len(files))]
        lost = set(bad)
        files = [file for file in files if file[0] not in lost]
        bad = empty + bad
        if bad:
            logging.warning("%d files cannot be decoded, left out: %s", len(bad), "; ".join(bad))
    if not files:
        raise UserError(f"none of the {len(bad)} files below {base!r} can be decoded.")
    files = [files[i] for i in slice_of(split, len(files))[1]]
    paths = [path for path, _ in files]
    labels, class_names = _classes(paths)
    return Source(
        name=f"folder {os.path.basename(os.path.abspath(root))}",
        split=split,
        num_examples=len(files),
        channels=channels,
        fingerprint=fingerprint("\n".join(f"{path} {size}" for path, size in files)),
        labels=labels,
        class_names=class_names,
        encoded=_reader(paths, base),
        describe=lambda i: os.path.join(base, paths[i]),
        bad_images=tuple(os.path.join(base, path) for path in bad),
    )


def undecodable(read: Callable[[int], tf.Tensor], count: int) -> list[int]:
    """Numbers of the images that cannot be decoded, or are too large to be meant seriously.

    Args:
      read: from a number to the bytes of an image; called from several threads.
      count: how many there are.

    Returns:
      Their numbers, ascending.
    """

    def is_bad(i: int) -> bool:
        try:
            contents = read(i)
            if _pixels(contents.numpy()) > MOST_PIXELS:
                return True
            return not tf.size(decode_image(contents, 3))
        except (tf.errors.OpError, ValueError):
            return True

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(
            pool.map(is_bad, range(count)),
            total=count,
            desc="checking images",
            mininterval=5,
            delay=3,
        )
        return [i for i, bad in enumerate(results) if bad]


def bad_images_error(base: str, paths: list[str], count: int) -> UserError:
    """Names files that cannot be decoded and says what to do."""
    listed = ", ".join(os.path.join(base, path) for path in paths[:_BAD_LISTED])
    more = f" and {len(paths) - _BAD_LISTED} more" if len(paths) > _BAD_LISTED else ""
    return UserError(
        f"{len(paths)} of {count} files cannot be decoded: {listed}{more}. Remove them, or pass "
        "--skip_bad_images to train on the others."
    )


def _base_of(root: str, split: str) -> str:
    """The folder of a split."""
    splits = [name for name in _SPLIT_FOLDERS if os.path.isdir(os.path.join(root, name))]
    if split in splits:
        return os.path.join(root, split)
    if split == "train" and not splits:
        return root
    has = f"has the splits {', '.join(splits)}" if splits else "has no sub-folders train/ and test/"
    raise UserError(
        f"there is no split {split!r}: the folder {root!r} {has}. Name another, or take a slice, "
        "such as --train_split='train[:80%]' --eval_split='train[80%:]'."
    )


def _files_below(base: str) -> Iterable[tuple[str, int]]:
    """(path below base, with forward slashes, size) of every image file; links not followed."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(base, folder)) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    yield path, entry.stat().st_size


def _classes(paths: list[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels by first-level sub-folder, where every image is in one and there are several."""
    folders = [path.split("/")[0] if "/" in path else None for path in paths]
    names = sorted({folder for folder in folders if folder is not None})
    if None in folders or len(names) < 2:
        return None, None
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[folder] for folder in folders], np.int64), tuple(names)


def _reader(paths: list[str], base: str) -> Callable[[tf.Tensor], tf.Tensor]:
    table = tf.constant(paths)
    return lambda index: tf.io.read_file(
        tf.strings.join([base, tf.gather(table, index)], separator="/")
    )


def _pixels(contents: bytes) -> int:
    """How many pixels the header promises; 0 where it is not cheap to know."""
    if contents[:8] == b"\x89PNG\r\n\x1a\n" and len(contents) >= 24:
        return int.from_bytes(contents[16:20], "big") * int.from_bytes(contents[20:24], "big")
    if contents[:2] == b"\xff\xd8":
        height, width, _ = tf.io.extract_jpeg_shape(contents).numpy().tolist()
        return height * width
    return 0
