"""The compiler's sanitizers find no access outside the kernels' buffers."""

from __future__ import annotations

import pathlib
import platform
import subprocess

import pytest
import tensorflow as tf

from tf_simclr.native import compiling

NATIVE = pathlib.Path(compiling.__file__).parent
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PROCESSOR = [[], ["-march=native"]] if platform.machine() == "x86_64" else [[]]


def build(source, program, *flags):
    command = [*compiling.compiler(), *compiling._FLAGS, *SANITIZERS, *flags, f"-I{NATIVE}"]
    command += [f"-I{tf.sysconfig.get_include()}", str(source), "-o", str(program), "-lm"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture
def _has_sanitizers(tmp_path):
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    if not compiling.compiler() or build(empty, tmp_path / "empty").returncode:
        pytest.skip("no compiler with sanitizers")


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSOR, ids=["any", "native"][: len(PROCESSOR)])
@pytest.mark.parametrize("kernel", ["crop_views", "finish_views"])
def test_no_access_outside_a_buffer(kernel, processor, tmp_path, _has_sanitizers):
    program, source = tmp_path / kernel, pathlib.Path(__file__).with_name("sanitized.c")
    flags = [f'-DKERNEL="{kernel}.c"', *(["-DCROP"] if kernel == "crop_views" else []), *processor]
    built = build(source, program, *flags)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
