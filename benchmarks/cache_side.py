"""Pairs of views per second from 13-megapixel photographs: decoded each time, or cached reduced.

    python benchmarks/cache_side.py [--peer=DIR]

The photographs are scikit-learn's two, doubled in size and tiled 4 x 3. "ours" decodes them each
time; "reduced" keeps them in memory with a shorter side of 512 pixels, as `--cache_side=512` does.
`--peer` is the directory `tf2/` of a checkout of google-research/simclr.
"""

from __future__ import annotations

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import sklearn.datasets
import tensorflow as tf

import tf_simclr
from benchmarks import input_pipeline
from benchmarks.timing import flags, in_turns, report

COUNT = 64
BATCH = 16  # Small, as the slow contestants take a second for 20 images.
SIDE = 512


def write_photographs(folder: str) -> list[str]:
    """Writes COUNT different files."""
    images = sklearn.datasets.load_sample_images().images
    files = []
    for index in range(COUNT):
        image = np.roll(images[index % 2], 5 * index, axis=1)
        twice = tf.image.resize(image, [2 * side for side in image.shape[:2]], "bicubic")
        twice = tf.cast(tf.clip_by_value(tf.round(twice), 0, 255), tf.uint8)
        files.append(os.path.join(folder, f"{index}.jpg"))
        tf.io.write_file(files[-1], tf.io.encode_jpeg(tf.tile(twice, [4, 3, 1]), quality=90))
    return files


def main() -> None:
    arguments = flags(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(folder)
        source = tf_simclr.open_source("folder", folder)
        reduced = tf_simclr.in_memory(source, shorter_side=SIDE)
        whole = tf_simclr.in_memory(source.take(np.arange(2)))  # All files have the same size.
        contestants = {
            "ours": input_pipeline.ours(source, 224, BATCH, blur=True),
            "reduced": input_pipeline.ours(reduced, 224, BATCH, blur=True),
        }
        if arguments.peer:
            sys.path.insert(0, arguments.peer)
            import data_util

            contestants["peer"] = input_pipeline.peers(
                data_util, files, input_pipeline.decode, 224, BATCH, blur=True
            )
        figures = in_turns(contestants, arguments.runs)
    rivals = sorted(set(figures) - {"reduced"})
    ratios = {f"ratio_to_{rival}": figures["reduced"] / figures[rival] for rival in rivals}
    report(
        benchmark="cache_side",
        unit="pairs/s",
        cores=os.cpu_count(),
        mb_an_image=whole.store.nbytes / 2e6,
        mb_reduced=reduced.store.nbytes / COUNT / 1e6,
        **figures,
        **ratios,
    )


if __name__ == "__main__":
    main()
