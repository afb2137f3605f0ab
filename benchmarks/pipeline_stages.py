"""The time of each stage of making a pair of views, on one core.

    python benchmarks/pipeline_stages.py [--photos=DIR]

Milliseconds per pair at 32 px from images in memory and, given a folder of JPEGs, at 224 px. Each
host stage is measured together with all stages before it, whose time is then subtracted. `flip_*`
mirrors one view of 224 px, by a slice and by a gather. `resize_*` makes one view from a crop of
260 px in TensorFlow's different ways. `decode_*` decodes a whole photograph, the part that its two
crops cover, and the whole at half size.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import tensorflow as tf

import tf_simclr
from benchmarks.timing import flags, report
from tf_simclr.augment import views as views_module
from tf_simclr.data import pipeline
from tf_simclr.data.draws import ViewOptions, crop_box, draw_views, example_indices
from tf_simclr.data.headers import image_size

BATCH = 64


def milliseconds(step, items: int, runs: int, calls: int = 5) -> float:
    """Median over `runs` of the time per item; the first call, which compiles, is left out."""
    step()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        times.append((time.perf_counter() - start) / calls / items * 1e3)
    return statistics.median(times)


def next_of(dataset):
    """A function that takes the next element of the dataset, which one thread produces."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    iterator = iter(dataset.with_options(options))
    return lambda: next(iterator)


def host(source, size: int, runs: int) -> dict[str, float]:
    """The host's stages: drawing, decoding, and two crops with resize, rounding and flip."""

    def draw(step):
        drawn = draw_views(ViewOptions(), source.channels, BATCH, 0, step)
        drawn["index"] = example_indices(source.num_examples, BATCH, 0, step)
        return drawn

    drawn = tf.data.Dataset.range(2**40).map(draw)
    whole = tf_simclr.two_view_dataset(source, batch_size=BATCH, image_size=size)
    if source.images is not None:
        loaded = drawn.map(lambda d: source.load(d["index"]))
    else:
        # The pipeline, too, passes only these draws along with each image.
        crops = drawn.map(lambda d: {name: d[name] for name in ("index", "crop", "flip")})
        loaded = crops.unbatch().map(lambda d: tf.size(source.load(d["index"]))).batch(BATCH)
    totals = [milliseconds(next_of(d), BATCH, runs) for d in (drawn, loaded, whole)]
    draw_ms, load_ms, whole_ms = totals
    return {"draw": draw_ms, "load": load_ms - draw_ms, "crop": whole_ms - load_ms}


def device(source, size: int, runs: int) -> dict[str, float]:
    """The device's stage: both forms of `finish_views`, and the CPU's with only colour or blur."""
    figures = {}
    for name, options in (
        ("finish", {}),
        ("colour", {"blur": False}),
        ("blur", {"color_jitter_strength": 0.0, "grayscale_probability": 0.0}),
        ("layout", {"color_jitter_strength": 0.0, "grayscale_probability": 0.0, "blur": False}),
    ):
        dataset = tf_simclr.two_view_dataset(source, batch_size=BATCH, image_size=size, **options)
        batch = next(iter(dataset))
        finish = tf.function(tf_simclr.finish_views)
        figures[name] = milliseconds(functools.partial(finish, batch), BATCH, runs)
        if name == "finish":
            together = tf.function(views_module._finish_together)
            figures["finish_together"] = milliseconds(
                functools.partial(together, batch), BATCH, runs
            )
    for name in ("colour", "blur"):
        figures[name] -= figures["layout"]
    return figures


def decoding(source, runs: int) -> dict[str, float]:
    """Ways to decode a photograph, each with drawn crops."""
    options = ViewOptions()

    def covered(step):
        contents = source.encoded(step % source.num_examples)
        height, width = (tf.repeat(n, 2) for n in tf.unstack(image_size(contents)))
        boxes = crop_box(draw_views(options, 3, 1, 0, step)["crop"][0], height, width, options)
        first = tf.reduce_min(boxes[:, :2], axis=0)
        last = tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0)
        return contents, tf.concat([first, last - first], axis=0)

    ways = {
        "decode_whole": lambda contents, _: tf.io.decode_jpeg(contents, channels=3),
        "decode_covered": lambda contents, box: tf.image.decode_and_crop_jpeg(
            contents, box, channels=3
        ),
        "decode_half": lambda contents, _: tf.io.decode_jpeg(contents, channels=3, ratio=2),
    }
    drawn = tf.data.Dataset.range(2**40).map(covered)
    cost = milliseconds(next_of(drawn.batch(BATCH)), BATCH, runs)
    return {
        name: milliseconds(next_of(drawn.map(way).map(tf.size).batch(BATCH)), BATCH, runs) - cost
        for name, way in ways.items()
    }


def operations(runs: int) -> dict[str, float]:
    """Different ways to flip and to resize one view of 224 px."""
    rng = np.random.default_rng(0)
    view = tf.constant(rng.integers(0, 256, [224, 224, 3], np.uint8))
    crop = tf.constant(rng.integers(0, 256, [260, 260, 3], np.uint8))
    ways = {
        "flip_slice": (lambda x: x[:, ::-1], view),
        "flip_gather": (lambda x: tf.gather(x, tf.range(223, -1, -1), axis=1), view),
        "resize_uint8": (lambda x: tf.image.resize(x, [224, 224], "bicubic"), crop),
        "resize_float": (lambda x: pipeline._bicubic(x, 224), crop),
        "resize_scale_and_translate": (_scale_and_translate, crop),
    }
    return {
        name: milliseconds(functools.partial(tf.function(way), x), 1, runs, calls=50)
        for name, (way, x) in ways.items()
    }


def _scale_and_translate(crop):
    return tf.raw_ops.ScaleAndTranslate(
        images=crop[tf.newaxis],
        size=[224, 224],
        scale=224.0 / tf.cast(tf.shape(crop)[:2], tf.float32),
        translation=[0.0, 0.0],
        kernel_type="keyscubic",
        antialias=False,
    )


def main() -> None:
    arguments = flags(__doc__).parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    small = np.random.default_rng(0).integers(0, 256, [5000, 32, 32, 3], np.uint8)
    sources = {32: tf_simclr.array_source(small)}
    if arguments.photos:
        sources[224] = tf_simclr.open_source("folder", arguments.photos)
    figures = operations(arguments.runs)
    if arguments.photos:
        figures.update(decoding(sources[224], arguments.runs))
    for size, source in sources.items():
        stages = {**host(source, size, arguments.runs), **device(source, size, arguments.runs)}
        figures.update({f"{name}_{size}": value for name, value in stages.items()})
    report(benchmark="pipeline_stages", unit="ms", threads=1, **figures)


if __name__ == "__main__":
    main()
