"""Pairs of views per second, from the source to float views ready for the encoder.

    python benchmarks/input_pipeline.py [--photos=DIR] [--peer=DIR]

`--photos` is a folder of JPEGs for the 224-pixel figures: "ours_224" decodes them each time,
"held_224" decodes them once, into memory, as training does with sets of up to 1 GiB. `--peer` is
the directory `tf2/` of a checkout of google-research/simclr, whose `data_util` then takes turns
with ours on the same images.
"""

from __future__ import annotations

import glob
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import tensorflow as tf

import tf_simclr
from benchmarks.timing import flags, in_turns, rate, report

BATCH = {32: 256, 224: 64}
WARM_UP = 3.0  # Seconds for `tf.data` to tune itself and to fill its buffers.


def alone(dataset, finish, batch_size):
    """The rate of a dataset that is created for each turn and deleted after it.

    A dataset that is kept would fill its buffers during the turns of others, and `tf.data` would
    tune it to a slow consumer.
    """

    def figure() -> float:
        batches = iter(dataset)
        finish(next(batches))  # Compiles, the first time.
        return rate(lambda: finish(next(batches)), batch_size, warm_up=WARM_UP)

    return figure


def ours(source, size, batch_size, blur):
    """Ours: `two_view_dataset`, then `finish_views` on the device."""
    finish = tf.function(tf_simclr.finish_views)
    dataset = tf_simclr.two_view_dataset(source, batch_size=batch_size, image_size=size, blur=blur)
    return alone(dataset, finish, batch_size)


def peers(data_util, images, decode, size, batch_size, blur):
    """The reference: its `preprocess_for_train` for each view, its blur on the batch."""

    def two_views(image):
        image = tf.image.convert_image_dtype(decode(image), tf.float32)
        views = [
            data_util.preprocess_for_train(image, size, size, color_jitter_strength=1.0)
            for _ in range(2)
        ]
        return tf.concat(views, -1)

    dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).repeat()
    dataset = dataset.map(two_views, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)

    @tf.function
    def finish(batch):
        views = tf.split(batch, 2, axis=-1)
        if blur:
            views = data_util.batch_random_blur(views, size, size)
        return tf.concat(views, 0)

    return alone(dataset.prefetch(tf.data.AUTOTUNE), finish, batch_size)


def decoding_only(files):
    """The lower bound: reads and decodes each of the same files once."""
    dataset = tf.data.Dataset.from_tensor_slices(files).repeat()
    dataset = dataset.map(decode, tf.data.AUTOTUNE).map(tf.size).batch(BATCH[224])
    return alone(dataset.prefetch(tf.data.AUTOTUNE), lambda batch: batch, BATCH[224])


def decode(path):
    return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)


def main() -> None:
    arguments = flags(__doc__).parse_args()
    data_util = None
    if arguments.peer:
        sys.path.insert(0, arguments.peer)
        import data_util

    small = np.random.default_rng(0).integers(0, 256, [5000, 32, 32, 3], np.uint8)
    contestants = {"ours_32": ours(tf_simclr.array_source(small), 32, BATCH[32], blur=False)}
    if data_util:
        contestants["peer_32"] = peers(data_util, small, lambda x: x, 32, BATCH[32], blur=False)
    if arguments.photos:
        files = sorted(glob.glob(os.path.join(arguments.photos, "*.[jJ]*")))
        source = tf_simclr.open_source("folder", arguments.photos)
        contestants["ours_224"] = ours(source, 224, BATCH[224], blur=True)
        contestants["held_224"] = ours(tf_simclr.in_memory(source), 224, BATCH[224], blur=True)
        contestants["decode_224"] = decoding_only(files)
        if data_util:
            contestants["peer_224"] = peers(data_util, files, decode, 224, BATCH[224], blur=True)
    figures = in_turns(contestants, arguments.runs)
    ratios = {}
    for name in set(figures) & {"ours_32", "ours_224", "held_224"}:
        for other in ("peer", "decode"):
            rival = f"{other}_{name.split('_')[1]}"
            if rival in figures:
                ratios[f"ratio_{name}_to_{other}"] = figures[name] / figures[rival]
    report(benchmark="input_pipeline", unit="pairs/s", cores=os.cpu_count(), **figures, **ratios)


if __name__ == "__main__":
    main()
