"""When the kernels are compiled and when not; the results are the same without them."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import native
from tf_simclr.augment import finish_views, views
from tf_simclr.data.draws import ViewOptions, draw_views
from tf_simclr.data.pipeline import labelled_dataset, two_view_dataset
from tf_simclr.native import compiling

ROOT = pathlib.Path(native.__file__).parents[2]
OPERATION = "TfSimclr>FinishViews"


@pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
def test_compiled_wherever_there_is_a_compiler(monkeypatch):
    monkeypatch.delenv(native.SWITCH, raising=False)
    kernels = native.kernels()
    assert callable(kernels.crop_views) and callable(kernels.finish_views)
    assert native.kernels() is kernels and native.state() == "kernels in C"


# In a separate process: in this one the operations may be registered already.
IN_THREADS = """
import concurrent.futures
from tf_simclr import native

with concurrent.futures.ThreadPoolExecutor(8) as pool:
    made = list(pool.map(lambda _: native.kernels(), range(8)))
assert made[0] and all(kernels is made[0] for kernels in made)
"""


def test_compiled_once_by_many_threads_and_nothing_left_behind(tmp_path):
    compiler = compiling.compiler() or pytest.skip("no compiler")
    counted, folder = tmp_path / "counted", tmp_path / "temporary"
    folder.mkdir()
    script = executable(tmp_path, f'echo x >> {counted}; exec {" ".join(compiler)} "$@"')
    environment = {**os.environ, "CC": script, "TMPDIR": str(folder), native.SWITCH: "1"}
    words = [sys.executable, "-c", IN_THREADS]
    subprocess.run(words, env=environment, cwd=ROOT, check=True, timeout=120)
    assert counted.read_text().split() == ["x", "x"] and not list(folder.iterdir())


def executable(folder, line):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


# --- no kernels ---


def test_switched_off(monkeypatch, caplog):
    monkeypatch.setenv(native.SWITCH, "0")
    monkeypatch.setattr(compiling, "_compiled", None)  # Compiling is not even tried.
    assert native.kernels() is None and native.state().startswith("TensorFlow's operations")
    assert not caplog.records


@pytest.fixture
def anew(monkeypatch):
    """Resets the module, as if nothing had been compiled yet. Loading would register ops twice."""
    load = tf.load_op_library

    def guarded(path):
        if os.path.exists(path) and os.path.getsize(path) > 1000:
            pytest.fail("a library to load")
        return load(path)

    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.setattr(tf, "load_op_library", guarded)
    compiled = functools.cache(compiling._compiled.__wrapped__)
    monkeypatch.setattr(compiling, "_compiled", compiled)


def assert_told_once(caplog, *words):
    for _ in range(3):
        assert native.kernels() is None and native.state().startswith("TensorFlow's operations")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    hints = (
        "slowly",
        "apt-get install gcc",
        "CC=/path/to/compiler",
        "TMPDIR",
        "TF_SIMCLR_NATIVE=0",
    )
    for word in (*words, *hints):
        assert word in record.getMessage()


def test_without_a_compiler_on_path(anew, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiling.compiler() is None
    assert_told_once(caplog, "(none of cc, gcc, clang is on PATH)")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "returned non-zero exit status 1"),
        ("/no/such/compiler -O1", "No such file or directory: '/no/such/compiler'"),
        ("/", "Permission denied"),
        ("true", "No such file or directory"),  # It does not write a library.
        ("'cc", "No closing quotation"),
    ],
)
def test_with_no_compiler_in_cc(command, said, anew, monkeypatch, caplog):
    monkeypatch.setenv("CC", command)
    assert_told_once(caplog, said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("echo; echo cannot find cc1 >&2; echo more >&2; exit 1", "(cannot find cc1)"),
        ("echo >&2; exit 1", "returned non-zero exit status 1"),
        (r"printf '\377\376' >&2; exit 1", "No kernels in C"),
        ("kill -9 $$", "died with <Signals.SIGKILL: 9>"),
        ('while [ "$1" != -o ]; do shift; done; echo text > "$2"', "too short"),
        ("exec sleep 60", "timed out"),
        ("echo slow >&2; exec sleep 60", "(slow)"),
    ],
)
def test_with_a_compiler_that_fails(line, said, anew, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(compiling, "_SECONDS", 1 if "sleep" in line else 60)
    monkeypatch.setenv("CC", executable(tmp_path, line))
    assert_told_once(caplog, said)


def test_without_a_folder_for_temporary_files(anew, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(compiling.tempfile, "tempdir", str(tmp_path / "none"))
    assert_told_once(caplog, "No such file or directory")


@pytest.mark.parametrize(
    ("place", "expected"),
    [("/job:worker/replica:0/task:0", False), ("/job:localhost/replica:0/task:0", True)],
)
def test_the_host_of_a_remote_tpu_does_not_know_them(place, expected, kernels, monkeypatch):
    devices = [("CPU", "/job:localhost/replica:0/task:0/device:CPU:0")]
    devices += [("TPU", f"{place}/device:TPU:{core}") for core in range(8)]
    devices = [types.SimpleNamespace(device_type=kind, name=name) for kind, name in devices]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: devices)
    assert native.kernels() is (kernels if expected else None)


# --- the command ---


def test_cc_may_be_several_words(monkeypatch):
    monkeypatch.setenv("CC", "ccache '/my tools/cc' -m64")
    assert compiling.compiler() == ["ccache", "/my tools/cc", "-m64"]
    command = compiling.command(pathlib.Path("/here/x.c"), "/there/x.so")
    assert command[:3] == compiling.compiler() and command[command.index("-o") + 1] == "/there/x.so"
    assert "/here/x.c" in command and "-ffp-contract=off" in command


def test_the_first_compiler_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", " ")
    for name in ("clang", "gcc", "cc"):
        shutil.copy(executable(tmp_path, "true"), tmp_path / name)
        assert compiling.compiler() == [name]


@pytest.mark.parametrize(("machine", "named"), [("x86_64", 1), ("aarch64", 0), ("arm64", 0)])
def test_the_processor_is_named_on_x86_only(machine, named, monkeypatch):
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(compiling.platform, "machine", lambda: machine)
    assert compiling.command(pathlib.Path("x.c"), "x.so").count("-march=native") == named


# --- the same without them ---


class OfManySizes:
    """A source of images of different sizes, the last of which is cropped from bytes."""

    name, images, class_names, image_shape = "sizes", None, ("a", "b"), None
    sides = (1, 2, 7, 16, 31, 40, 99, 224, 375, 1400)
    num_examples = len(sides)
    labels = np.arange(num_examples) % 2

    def __init__(self, channels):
        self.channels = channels
        rng = np.random.default_rng(0)
        self.pixels = tf.constant(rng.integers(0, 256, [1400, 1700, channels], np.uint8))

    def load(self, index):
        side = tf.gather(self.sides, index)
        return self.pixels[:side, : side + side // 5]


def batches_of(make, source, **options):
    dataset = make(source, batch_size=10, image_size=33, seed=1, **options).take(2)
    return [[value.numpy() for value in tf.nest.flatten(batch)] for batch in dataset]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [two_view_dataset, labelled_dataset])
def test_batches_have_the_same_bits(make, channels, kernels, monkeypatch, request):
    source = OfManySizes(channels)
    options = {"crop_area": (0.9, 1.0)} if channels == 3 else {}  # Some crops beyond 4M floats.
    expected = batches_of(make, source, **options)
    request.getfixturevalue("anew")
    monkeypatch.setenv("CC", "false")
    assert native.kernels() is None
    found = batches_of(make, source, **options)
    assert [len(batch) for batch in found] == [len(batch) for batch in expected] and found
    for got, want in zip(found, expected):
        for one, other in zip(got, want):
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def batch(kernels, monkeypatch):
    monkeypatch.setattr(views, "_has_accelerator", lambda: False)
    drawn = draw_views(ViewOptions(), 3, 12, 0, 0)
    drawn = {name: value for name, value in drawn.items() if name not in ("crop", "flip")}
    images = np.random.default_rng(0).integers(0, 256, [12, 2, 40, 40, 3], np.uint8)
    return {"images": tf.constant(images), **drawn}


def operations(function, batch):
    """The operations in all graphs that a tf.function calls."""
    graph = function.get_concrete_function(batch).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


def test_finished_views_without_kernels(batch, monkeypatch):
    expected = finish_views(batch)
    monkeypatch.setenv(native.SWITCH, "0")
    finish = tf.function(finish_views)
    np.testing.assert_allclose(finish(batch), expected, rtol=0, atol=1e-5)
    assert OPERATION not in operations(finish, batch)


def test_in_a_graph_it_is_the_kernel(batch):
    finish = tf.function(finish_views)
    assert OPERATION in operations(finish, batch)
    np.testing.assert_array_equal(finish(batch), finish_views(batch))


def nested(outer, inner):
    """finish_views in two nested functions, each compiled by XLA or not."""
    inner = tf.function(finish_views, jit_compile=inner)
    return tf.function(lambda batch: inner(batch), jit_compile=outer, autograph=False), inner


def assert_without_kernel(function, batch):
    assert OPERATION not in operations(function, batch)
    np.testing.assert_allclose(function(batch), finish_views(batch), rtol=0, atol=1e-5)


def test_xla_compiles_it(batch):
    assert_without_kernel(tf.function(finish_views, jit_compile=True), batch)


@pytest.mark.parametrize(("outer", "inner"), [(None, True), (True, None), (True, True)])
def test_xla_compiles_it_nested(outer, inner, batch):
    assert_without_kernel(nested(outer, inner)[0], batch)


def test_xla_refuses_a_function_that_ran_before_without_it(batch):
    """As documented: TensorFlow traces it only once. It would be better if it traced again."""
    outer, inner = nested(True, None)
    np.testing.assert_array_equal(inner(batch), finish_views(batch))
    with pytest.raises(tf.errors.InvalidArgumentError, match="FinishViews"):
        outer(batch)


def test_a_function_that_xla_has_compiled_runs_without_it(batch):
    outer, inner = nested(True, None)
    assert_without_kernel(outer, batch)
    np.testing.assert_allclose(inner(batch), finish_views(batch), rtol=0, atol=1e-5)


def test_in_a_scope_of_xla_it_is_the_kernel(batch):
    """`distribute.on_replicas` uses such a scope, in which XLA skips unknown operations."""

    @tf.function(autograph=False)
    def scoped(batch):
        with tf.xla.experimental.jit_scope():
            return tf.square(finish_views(tf.nest.map_structure(tf.identity, batch)))

    assert OPERATION in operations(scoped, batch)
    np.testing.assert_allclose(scoped(batch), np.square(finish_views(batch)), rtol=0, atol=1e-6)


def test_on_every_device_of_a_strategy(batch):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    finish = tf.function(lambda batch: strategy.run(finish_views, [batch]), autograph=False)
    for views_of_one in strategy.experimental_local_results(finish(batch)):
        np.testing.assert_array_equal(views_of_one, finish_views(batch))
