"""The folder of a real run with a tiny encoder, damaged as a disk or a person may damage it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile

import numpy as np
import tensorflow as tf

from tests.faults.flag_inputs import damaged, parse
from tests.faults.harness import Fault, snapshot
from tf_simclr import tasks
from tf_simclr.checkpoints import RunCheckpoints, load_encoder_from
from tf_simclr.config import Config
from tf_simclr.report import write_report
from tf_simclr.tasks import build
from tf_simclr.workdir import Workdir

STEPS = 3
SMALL = {
    "dataset": "digits",
    "image_size": 8,
    "encoder": "resnet10",
    "use_blur": False,
    "color_jitter_strength": 0.0,
    "num_proj_layers": 2,
    "proj_out_dim": 8,
    "train_batch_size": 8,
    "train_steps": STEPS,
    "warmup_epochs": 0,
    "checkpoint_steps": 1,
    "log_steps": 1,
}
NAMES = ("w", "w", "lr=[1e-3,2]", "back\\slash", "a*b?", "e\u0301 \u00e9 %s #1 ~")
TEXTS = ("manifest.json", "flags.resolved", "metrics.jsonl", "pretrain.json", "card.json")
JSONS = (
    *(b"", b"{}", b"[]", b"null", b"3", b'"text"', b"[[]]", b'{"step": "x"}', b'{"pretrain": 1}'),
    *(
        b"{",
        b"\xff\xfe",
        b'{"knn_eval": []}',
        b'{"linear_eval": {"few_label": [1]}}',
        b"\xef\xbb\xbf{}",
    ),
    *(b'{"step": 1}\n{"step": null}\n', b"NaN", b'{"dataset": 1}', b'{"encoder": {}}', b"[" * 9999),
    *(b'{"knn_eval": {"top1": {"a": "b"}}}', b'{"dataset": {"fingerprint": "another"}}'),
)


# Files that a run writes while it continues; `_go_on` checks whole checkpoints.
_PROGRESS = (
    r"^[^/]+/(flags\.resolved|metrics\.jsonl|results(/.*)?|views\.png|report\.html|encoder(/.*)?"
    r"|checkpoints/(manifest\.json|ckpt-\d+\..*))$"
)


def tiny_encoder(name, *, image_size, channels, **options) -> tf.keras.Model:
    """Replaces the ResNet by a fast encoder; its output does not matter here."""
    layers = tf.keras.layers
    images = layers.Input([None, None, channels])
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(images)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="final_avg_pool")(x)
    return tf.keras.Model(images, x, name="tiny")


def run(workdir: str, **settings) -> None:
    """Runs a task with the tiny encoder."""
    original = build.build_encoder
    build.build_encoder = tiny_encoder
    try:
        config = Config(workdir=workdir, **{**SMALL, **settings})
        tasks.run(config, tf.distribute.OneDeviceStrategy("/cpu:0"))
    finally:
        build.build_encoder = original


@functools.cache
def base_run() -> dict[str, bytes]:
    """{name: contents} of a run's files, without times, so that a seed can be replayed."""
    with tempfile.TemporaryDirectory() as folder:
        run(folder)
        run(folder, mode="knn_eval", knn_k=5)
        files = {os.fsdecode(name): data[5:] for name, data in snapshot(folder).items()}
    files = {
        n: d for n, d in files.items() if "." in os.path.basename(n) and "tensorboard/" not in n
    }
    for name in ("metrics.jsonl", "results/pretrain.json"):
        text = files[name].decode()
        files[name] = re.sub(
            r'("(?:images_per_second|data_wait)": )[^,}\s]+', r"\g<1>0.5", text
        ).encode()
    return dict(sorted(files.items()))


@functools.cache
def saved_weights() -> tuple[list[np.ndarray], ...]:
    """The encoder's weights of each checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        _write_all(base_run(), folder)
        paths = [f"{folder}/checkpoints/ckpt-{step}" for step in range(1, STEPS + 1)]
        return tuple(load_encoder_from(path).get_weights() for path in paths)


@functools.cache
def parts() -> dict:
    """A model to restore into, created once."""
    build_encoder, build.build_encoder = build.build_encoder, tiny_encoder
    try:
        config = Config(workdir="w", **SMALL)
        return build.parts_of(build.simclr_of(config, 1, build.plan_of(config, 1297, 1), 0))
    finally:
        build.build_encoder = build_encoder


def write_workdir(rng, folder: str) -> str:
    """Writes a copy of the run with some damage; returns its path."""
    base = os.path.join(folder, rng.choice(NAMES))
    _write_all(base_run(), base)
    for _ in range(rng.choice((1, 1, 2, 3))):
        names = sorted(os.fsdecode(name) for name in snapshot(base))
        weight = [6 if n.startswith("checkpoints") or n.endswith(TEXTS) else 1 for n in names]
        if names:
            _damage(rng, base, rng.choices(names, weight)[0], names)
    return base


def _damage(rng, base: str, name: str, names: list[str]) -> None:
    path = os.path.join(base, name)
    kind = rng.randrange(9)
    if os.path.islink(path):  # Already damaged.
        os.remove(path)
        return
    if os.path.isdir(path):
        shutil.rmtree(path)
        if kind < 4:
            _write(path, b"a file where a folder was")
        return
    if kind == 0:
        os.remove(path)
    elif kind == 1:
        other = os.path.join(base, rng.choice(names))
        if os.path.isfile(other):
            shutil.copyfile(path, path + ".swap")
            os.replace(other, path)
            os.replace(path + ".swap", other)
    elif kind == 2:
        os.remove(path)
        os.makedirs(rng.choice((path, os.path.join(path, "inside"))))
    elif kind == 3:
        step = str(rng.choice((0, 1, 2, 3, 4, 7, 10**6, 10**30, "x", "-1", "٣")))
        renamed = re.sub(r"ckpt-\d+", f"ckpt-{step}", path)
        os.replace(path, renamed if renamed != path else path + rng.choice((".bak", "~", ".index")))
    elif kind == 4 and name.endswith(TEXTS):
        _write(path, rng.choice(JSONS))
    elif kind == 5 and os.path.getsize(path):
        _write(path, b"\0" * os.path.getsize(path))
    elif kind == 6:
        os.remove(path)
        os.symlink(rng.choice(("nowhere", os.path.basename(path), ".", "/dev/null")), path)
    else:
        with open(path, "rb") as file:
            data = file.read()
        _write(path, damaged(rng, data, rng.choice((1, 1, 3))))


def choose(rng):
    """(an action on a run's folder, pattern of files that it may change even if it fails)."""
    actions = (_load, _restore, _claim, _record, _report, _inherit, _evaluate, _go_on)
    action = rng.choices(actions, (40, 25, 10, 10, 15, 10, 2, 4))[0]
    return action, _PROGRESS if action in (_evaluate, _go_on) else ""


def _load(rng, workdir):
    ends = ("", "/checkpoints", "/encoder", "/checkpoints/ckpt-2", "/checkpoints/ckpt-3.index")
    path = workdir + rng.choice((*ends, *("" for _ in ends), "/encoder/encoder.keras", "/missing"))
    with unchanged(workdir):
        weights = load_encoder_from(path).get_weights()
    for known in saved_weights():
        if len(known) == len(weights) and all(map(np.array_equal, known, weights)):
            return
    raise Fault("an encoder was loaded that was never saved")


def _restore(rng, workdir):
    live = [v for part in parts().values() for v in part.variables]
    before = [v.numpy() for v in live]
    directory = os.path.join(workdir, "checkpoints")
    with unchanged(workdir):
        try:
            RunCheckpoints(directory, **parts()).restore_latest()
        except Exception:
            if not all(map(np.array_equal, before, [v.numpy() for v in live])):
                raise Fault("a restore that failed has changed variables") from None
            raise


def _claim(rng, workdir):
    more = rng.choice(({}, {"log_steps": 2}, {"temperature": 0.5}))
    config = Config(workdir=workdir, **{**SMALL, **more})
    Workdir(workdir).check_is_of(build.identity_of(config))


def _record(rng, workdir):
    if rng.random() < 0.5:
        Workdir(workdir).metrics_until(rng.choice((0, 2, 9)))
    else:
        Workdir(workdir).keep_result("pretrain", {"step": 9})


def _report(rng, workdir):
    write_report(workdir)


def _inherit(rng, workdir):
    mode = rng.choice(("knn_eval", "export", "linear_eval", "finetune", "pretrain", "doctor"))
    ends = ("", "/", "/checkpoints", "/encoder", "/checkpoints/ckpt-2", "/encoder/encoder.keras")
    start = [f"--init_from={workdir}{rng.choice(ends)}"] if rng.random() < 0.5 else []
    parse([f"--mode={mode}", f"--workdir={workdir}", *start])


def _evaluate(rng, workdir):
    run(workdir, mode=rng.choice(("knn_eval", "export")), knn_k=5)


def _go_on(rng, workdir):
    before = whole_checkpoints(workdir)
    try:
        run(workdir, train_steps=STEPS)
    finally:
        gone = before - whole_checkpoints(workdir)
        if gone:
            raise Fault(f"whole checkpoints are gone after a run: {sorted(gone)}")


def whole_checkpoints(workdir: str) -> set[str]:
    """Names of the checkpoints whose files are unchanged."""
    found = snapshot(workdir)
    files = {os.fsencode(name): b"file " + data for name, data in base_run().items()}
    whole = set()
    for step in range(1, STEPS + 1):
        own = [name for name in files if name.startswith(b"checkpoints/ckpt-%d." % step)]
        if all(found.get(name) == files[name] for name in own):
            whole.add(f"ckpt-{step}")
    return whole


@contextlib.contextmanager
def unchanged(workdir: str):
    """Checks that an action that only reads changes no file."""
    before = snapshot(workdir)
    yield
    if snapshot(workdir) != before:
        raise Fault("reading has changed the folder")


def _write_all(files: dict[str, bytes], folder: str) -> None:
    for name, data in files.items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        _write(os.path.join(folder, name), data)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
