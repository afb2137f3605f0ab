"""Time to list a folder's images, with and without a kept listing.

    python benchmarks/listing.py [--files=100000]

The files have one byte and are in 100 folders. Keras' `image_dataset_from_directory`, which also
lists them, is measured for comparison.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import tensorflow as tf

from benchmarks.timing import flags, in_turns, report
from tf_simclr.data.folder import ImageFolder

FOLDERS = 100


def make(root: str, files: int) -> None:
    for folder in range(FOLDERS):
        path = pathlib.Path(root, f"class_{folder:03d}")
        path.mkdir()
        for index in range(files // FOLDERS):
            (path / f"image_{index:06d}.jpg").write_bytes(b"x")
        os.utime(path, (0, 0))
    os.utime(root, (0, 0))


def seconds(call) -> float:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # Keras prints what it found.
        call()
    return time.perf_counter() - start


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as elsewhere:
        make(root, arguments.files)
        kept = os.path.join(elsewhere, "listing.npz")
        ImageFolder(root, "train", listing_file=kept).keep_listing()
        contestants = {
            "ours_s": lambda: ImageFolder(root, "train"),
            "ours_kept_s": lambda: ImageFolder(root, "train", listing_file=kept),
            "keras_s": lambda: tf.keras.utils.image_dataset_from_directory(root),
        }
        timed = {name: functools.partial(seconds, call) for name, call in contestants.items()}
        figures = in_turns(timed, arguments.runs)
    figures["ratio"] = figures["keras_s"] / figures["ours_s"]
    figures["ratio_kept"] = figures["keras_s"] / figures["ours_kept_s"]
    report(benchmark="listing", files=arguments.files, **figures)


if __name__ == "__main__":
    main()
