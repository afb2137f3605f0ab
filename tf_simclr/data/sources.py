"""Where images come from: the embedded digits, a folder, a TFDS data set, arrays in memory.

A source is a numbered set of images; the pipeline asks for them by number, in an order of its own.
Small sets of one image size are decoded in memory; of others each image is read when asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.errors import UserError

# At random but the same everywhere: which digits are test images, and what a slice of a set holds.
_SPLIT_SEED = 0
_DIGITS_TEST = 500


@dataclasses.dataclass
class Source:
    """A numbered set of images; made by `open_source` and `array_source`.

    Attributes:
      name, split: what was opened.
      num_examples: how many images.
      channels: of every image it gives.
      fingerprint: identifies the images, the same on every machine.
      images: all of them, uint8 [N, H, W, C], where they fit and have one size; else None.
      labels: int64 [N], or None.
      class_names: name of each label, or None.
      encoded: from an int64 scalar to the bytes of that image's file, a graph function; None where
        `images` is not.
      describe: from a number to what a person knows the image by, such as its file.
      bad_images: files that were left out because they cannot be decoded.
    """

    name: str
    split: str
    num_examples: int
    channels: int
    fingerprint: str
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    encoded: Callable[[tf.Tensor], tf.Tensor] | None = None
    describe: Callable[[int], str] = str
    bad_images: Sequence[str] = ()

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """Image number `index`, uint8 [h, w, channels]; a graph function of an int64 scalar."""
        if self.images is not None:
            return tf.gather(self.images, index)
        return decode_image(self.encoded(index), self.channels)


def open_source(
    name: str,
    data_dir: str | None = None,
    split: str = "train",
    *,
    channels: int | None = None,
    skip_bad_images: bool = False,
) -> Source:
    """Opens a set of images by name.

    Args:
      name: "digits" (scikit-learn's scanned digits, needs no network), "folder" (JPEG, PNG, GIF and
        BMP files below `data_dir`, any depth, any sizes; sub-folders give labels), or the name of
        a TFDS data set, which must have been prepared in `data_dir`.
      data_dir: the folder; for TFDS its data directory, default TFDS's own.
      split: "train", "test" ..., with TFDS's slices: "train[:80%]", "train[100:200]".
      channels: 3 or 1 for folders (default 3); others have their own.
      skip_bad_images: check every file of a folder, and leave out and list what cannot be decoded.

    Returns:
      The source.

    Raises:
      UserError: unknown name or split, a missing or empty folder, a set that is not prepared.
    """
    if name == "digits":
        return _digits(split)
    if name == "folder":
        from tf_simclr.data.folder import folder_source

        return folder_source(data_dir, split, channels or 3, skip_bad_images)
    from tf_simclr.data.tfds import tfds_source

    return tfds_source(name, data_dir, split)


def array_source(
    images: np.ndarray,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    split: str = "train",
) -> Source:
    """Makes a source of images in memory.

    Args:
      images: uint8 [N, H, W, C] in [0, 255].
      labels: N integers from 0, or None.
      class_names: name of each label; default their numbers.
      name, split: how to call it.

    Returns:
      The source.

    Raises:
      UserError: another dtype or rank, no image, or labels that do not fit.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(
            "images must be a uint8 array [N, H, W, C] with at least one image; received "
            f"{images.dtype} {list(images.shape)}."
        )
    if labels is not None:
        labels = np.asarray(labels, np.int64)
        if labels.shape != (len(images),) or labels.min() < 0:
            raise UserError(
                f"labels must be {len(images)} integers >= 0, one for each image; received shape "
                f"{list(labels.shape)}, least {labels.min()}."
            )
        count = int(labels.max()) + 1
        class_names = tuple(class_names or map(str, range(count)))
        if len(class_names) < count:
            raise UserError(f"class_names has {len(class_names)} names; the labels need {count}.")
    return Source(
        name=name,
        split=split,
        num_examples=len(images),
        channels=images.shape[3],
        fingerprint=fingerprint(images.tobytes(), str(images.shape)),
        images=images,
        labels=labels,
        class_names=class_names if labels is not None else None,
    )


def find_bad_images(source: Source) -> list[str]:
    """Decodes every image of a source and names those that cannot be decoded."""
    if source.images is not None:
        return []
    from tf_simclr.data.folder import undecodable

    bad = undecodable(lambda i: source.encoded(tf.constant(i, tf.int64)), source.num_examples)
    return [source.describe(i) for i in bad]


def decode_image(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes JPEG, PNG, GIF (its first frame) or BMP bytes; a graph function.

    Args:
      contents: scalar string.
      channels: 3, or 1 for the luma; grayscale files give three equal channels, alpha is dropped.

    Returns:
      uint8 [h, w, channels].
    """
    if channels not in (1, 3):
        raise UserError(f"image files can be read with 3 channels or 1; received {channels!r}.")
    image = tf.cond(
        tf.strings.substr(contents, 0, 2) == b"BM",
        # BMP alone refuses to be converted, and may have 1 or 4 channels.
        lambda: _three_channels(tf.io.decode_bmp(contents)),
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    return tf.image.rgb_to_grayscale(image) if channels == 1 else image


def slice_of(split: str, count: int) -> tuple[str, np.ndarray]:
    """Takes "name[a:b]" apart, as TFDS writes slices.

    Args:
      split: a name, or a name with bounds in numbers or percent.
      count: how many examples the whole split has.

    Returns:
      (name, sorted indices). A slice of a set without an order of its own is a random sample, the
      same every time, so that it holds every class; slices that do not overlap share nothing.

    Raises:
      UserError: it cannot be read, or is empty.
    """
    match = re.fullmatch(r"([\w.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match:
        raise UserError(f"split {split!r} cannot be read; write train, train[:80%] or train[5:9].")
    name, *bounds = match.groups()
    if "[" not in split:
        return name, np.arange(count)
    first, last = (_bound(bound, count) for bound in bounds)
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    chosen = np.sort(order[first:last])
    if not len(chosen):
        raise UserError(f"split {split!r} holds none of the {count} images.")
    return name, chosen


def fingerprint(*parts: bytes | str) -> str:
    """A short hash of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


def _digits(split: str) -> Source:
    """1,797 scanned digits (Alpaydin & Kaynak 1998): 8 x 8 pixels, 17 grey levels, 10 classes."""
    from sklearn.datasets import load_digits  # Slow to import.
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(images)),
        test_size=_DIGITS_TEST,
        random_state=_SPLIT_SEED,
        stratify=digits.target,
    )
    name = split.split("[")[0]
    if name not in ("train", "test"):
        raise UserError(f"digits has the splits train and test; received {split!r}.")
    chosen = np.sort(train if name == "train" else test)
    chosen = chosen[slice_of(split, len(chosen))[1]]
    names = [str(digit) for digit in digits.target_names]
    return array_source(images[chosen], digits.target[chosen], names, "digits", split)


def _bound(bound: str | None, count: int) -> int | None:
    if bound is None:
        return None
    if bound.endswith("%"):
        return int(round(count * int(bound[:-1]) / 100))
    return int(bound)


def _three_channels(image: tf.Tensor) -> tf.Tensor:
    image = image[:, :, :3]
    return tf.cond(
        tf.shape(image)[2] == 3,
        lambda: image,
        lambda: tf.repeat(image[:, :, :1], 3, axis=2),
    )
