"""The pretraining step against a bare Keras step, and against the reference's.

    python benchmarks/train_step.py [--peer=DIR]

ResNet-18 on 32 pixels, 128 images. Ours: `SimCLR.train_step` on the pipeline's batch, with colour
jitter, NT-Xent, its metrics and LARS. Bare: a supervised Keras step on 256 images, with the same
encoder, a linear classifier and momentum. Given `--peer`, the directory `tf2/` of a checkout of
google-research/simclr: its model, loss and LARS on float views, without its augmentation.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import tensorflow as tf

import tf_simclr
from benchmarks.timing import flags, in_turns, report

PAIRS, SIZE, STEPS = 128, 32, 3


def ours():
    rng = np.random.default_rng(0)
    source = tf_simclr.array_source(rng.integers(0, 256, [PAIRS, SIZE, SIZE, 3], np.uint8))
    dataset = tf_simclr.two_view_dataset(source, batch_size=PAIRS, image_size=SIZE, blur=False)
    batch = next(iter(dataset))
    encoder = tf_simclr.build_encoder("resnet18", image_size=SIZE)
    model = tf_simclr.SimCLR(encoder)
    model.compile(tf_simclr.LARS(0.1, weight_decay=1e-4))
    step = tf.function(model.train_step)
    return lambda: float(step(batch)["loss"])


def bare():
    encoder = tf_simclr.build_encoder("resnet18", image_size=SIZE)
    logits = tf.keras.layers.Dense(10)(encoder.output)
    model = tf.keras.Model(encoder.input, logits)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.1, momentum=0.9), loss)
    batch = tf.random.uniform([2 * PAIRS, SIZE, SIZE, 3]), tf.zeros([2 * PAIRS], tf.int32)
    step = tf.function(model.train_step)
    return lambda: float(step(batch)["loss"])


def peers(directory: str):
    """The reference's step, built from its parts as its run.py does for pretraining."""
    sys.path.insert(0, directory)
    import lars_optimizer
    import model as peer_model
    import objective
    import run  # noqa: F401  Defines the flags that the others read.
    from absl import flags

    flags.FLAGS(["benchmark", f"--image_size={SIZE}", "--resnet_depth=18", "--train_mode=pretrain"])
    flags.FLAGS.lineareval_while_pretraining = False
    flags.FLAGS.use_blur = False
    model = peer_model.Model(10)
    optimizer = lars_optimizer.LARSOptimizer(
        0.1, momentum=0.9, weight_decay=1e-4, exclude_from_weight_decay=["batch_normalization"]
    )
    views = tf.random.uniform([PAIRS, SIZE, SIZE, 6])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            projection, _ = model(views, training=True)
            loss, _, _ = objective.add_contrastive_loss(projection, temperature=0.1)
            loss += peer_model.add_weight_decay(model, adjust_per_optimizer=True)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return lambda: float(step())


def milliseconds(step) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return 1e3 * (time.perf_counter() - start) / STEPS


def main() -> None:
    arguments = flags(__doc__).parse_args()
    steps = {"ours": ours(), "bare": bare()}
    if arguments.peer:
        steps["peer"] = peers(arguments.peer)
    for step in steps.values():
        step()
    timed = {name: lambda step=step: milliseconds(step) for name, step in steps.items()}
    figures = in_turns(timed, arguments.runs)
    ratios = {f"ratio_{k}": figures["ours"] / v for k, v in figures.items() if k != "ours"}
    report(benchmark="train_step", unit="ms", cores=os.cpu_count(), **figures, **ratios)


if __name__ == "__main__":
    main()
