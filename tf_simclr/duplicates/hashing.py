"""Digests of files and pixels, and a perceptual hash: what copies are found by before training.

The perceptual hash is pHash: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010, section 3.2.1.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.decoding import to_grey

SIDE = 80  # Of the small grey image.
_GRID = 32  # Points that the transform takes in each direction.
_LOW = 8  # Frequencies kept in each direction: 64 bits.
_EDGE = 8  # Of SIDE: a tenth.
_WHOLE = (0, SIDE)
# (rows, columns) of the small image: a tenth less around it, or on one side.
_CROPS = (
    ((_EDGE // 2, SIDE - _EDGE // 2),) * 2,
    *((_WHOLE, (_EDGE, SIDE)), (_WHOLE, (0, SIDE - _EDGE))),
    *(((_EDGE, SIDE), _WHOLE), ((0, SIDE - _EDGE), _WHOLE)),
)
_BATCH = 256
_FLAT = 2.0  # Standard deviation in grey levels, below which a hash would be of noise.


@dataclasses.dataclass(frozen=True)
class Hashes:
    """What copies of N images are found by; 90 bytes an image.

    Attributes:
      files: uint64 [N, 2], digests of the images' files; all zero where there are no files.
      pixels: uint64 [N, 2], digests of size and decoded pixels.
      hashes: uint64 [N], perceptual hashes.
      mirrored: uint64 [N], those of the images mirrored left to right.
      cropped: uint64 [5, N], those of crops: without a tenth around the image, or on one side.
      flat: bool [N], images of nearly one colour, whose hash says nothing.
      bad: int64 [n], images that cannot be read; their other values are zero.
    """

    files: np.ndarray
    pixels: np.ndarray
    hashes: np.ndarray
    mirrored: np.ndarray
    cropped: np.ndarray
    flat: np.ndarray
    bad: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)


def hashes_of(source, skip_bad_images: bool = False) -> Hashes:
    """Reads and decodes every image once, as training does.

    Args:
      source: a `Source` with 1, 3 or 4 channels.
      skip_bad_images: list images that cannot be read in `bad`, instead of failing.

    Raises:
      UserError: an image cannot be read.
    """
    count = source.num_examples
    has_files = not source.store.nbytes
    files, pixels = np.zeros([2, count, 2], np.uint64)
    hashes = np.zeros([2 + len(_CROPS), count], np.uint64)
    flat, seen = np.zeros([2, count], bool)

    def example(index):
        contents = source.encoded(index) if has_files else tf.constant("")
        image = source.load(index)
        return index, contents, image, _small(image)

    chosen = np.setdiff1d(np.arange(count), source.store.unreadable if skip_bad_images else [])
    images = tf.data.Dataset.from_tensor_slices(chosen.astype(np.int64))
    images = images.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    if skip_bad_images:
        images = images.ignore_errors()
    images = images.prefetch(2)
    rows, small = [], []

    def finish():
        grey = np.stack(small)
        hashes[:, rows] = perceptual_hashes(grey)
        flat[rows] = grey.std(axis=(1, 2)) < _FLAT
        rows.clear()
        small.clear()

    with naming_bad_images(source):
        numbered = images.as_numpy_iterator()
        for index, contents, image, grey in tqdm(
            numbered, "Hashing", count, mininterval=5, delay=3
        ):
            if has_files:
                files[index] = _digest(contents)
            pixels[index] = _digest(repr(image.shape).encode(), image)
            seen[index] = True
            rows.append(index)
            small.append(grey)
            if len(rows) == _BATCH:
                finish()
    if rows:
        finish()
    whole, mirrored, *cropped = hashes
    return Hashes(files, pixels, whole, mirrored, np.stack(cropped), flat, np.flatnonzero(~seen))


def perceptual_hashes(grey: np.ndarray) -> np.ndarray:
    """The pHash of images, of the images mirrored left to right, and of five crops of them.

    A bit is whether one of the 8 x 8 lowest frequencies of the DCT-II, without those that are
    constant in a direction, is above their median. Mirroring changes the sign of the odd
    horizontal ones, and a crop is another matrix, so that no image is read again.

    Args:
      grey: uint8 [N, SIDE, SIDE].

    Returns:
      uint64 [7, N]: whole; mirrored; without a tenth around it, at the left, right, top, bottom.
    """
    grey = grey.astype(np.float64)
    whole, *crops = (
        np.einsum("fy,nyx,gx->nfg", _matrix(*rows), grey, _matrix(*columns), optimize=True)
        for rows, columns in ((_WHOLE, _WHOLE), *_CROPS)
    )
    signs = np.where(np.arange(1, _LOW + 1) % 2, -1.0, 1.0)
    return np.stack([_bits(low) for low in (whole, whole * signs, *crops)])


def _bits(low):
    values = low.reshape(len(low), -1)
    # Rounded, as what is exactly 0 of a symmetric image must not depend on the order of sums.
    values = np.round(values, 6)
    above = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(np.uint64).ravel()


@functools.cache
def _matrix(first, last):
    """From the pixels of a line to the DCT-II's frequencies 1 to 8 of a part of it: [8, SIDE].

    The part is first averaged over _GRID equal pieces.
    """
    edges = np.linspace(first, last, _GRID + 1)[:, np.newaxis]
    covered = np.clip(np.arange(SIDE + 1) - edges, 0, None)  # [_GRID + 1, SIDE + 1]
    # The share of each pixel to the right of an edge.
    covered = np.minimum(np.diff(covered, axis=1), 1)
    pieces = (covered[:-1] - covered[1:]) * _GRID / (last - first)
    frequency = np.arange(1, _LOW + 1)[:, np.newaxis]
    angle = np.pi * frequency * (2 * np.arange(_GRID) + 1) / (2 * _GRID)
    return np.sqrt(2 / _GRID) * np.cos(angle) @ pieces


def _small(image):
    """The image in grey, reduced by averaging over areas: uint8 [SIDE, SIDE]."""
    colours = image[..., :3] if image.shape[-1] == 4 else image
    grey = to_grey(colours) if colours.shape[-1] == 3 else colours[..., :1]
    small = tf.image.resize(grey, [SIDE, SIDE], "area")[..., 0]
    return tf.cast(tf.round(small), tf.uint8)


def _digest(*parts):
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return np.frombuffer(digest.digest(), np.uint64)


def first_equal(digests: np.ndarray) -> np.ndarray:
    """For each of the digests, uint64 [N, 2], the first position with the same one, int64 [N]."""
    order = np.lexsort(digests.T)  # Stable.
    ordered = digests[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    return first


def first_of(digests: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first position of each of `wanted` in `digests`, int64 [M]; -1: it is not there."""
    first = first_equal(np.concatenate([digests, wanted]))[len(digests) :]
    return np.where(first < len(digests), first, -1)
