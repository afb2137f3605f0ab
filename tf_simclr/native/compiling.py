"""Compiling the kernels, when they are first needed, and loading them."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import types

import tensorflow as tf
from absl import logging

from tf_simclr.errors import printable

SWITCH = "TF_SIMCLR_NATIVE"  # 0 in the environment disables the kernels.
_KERNELS = ("crop_views", "finish_views")
_COMPILERS = ("cc", "gcc", "clang")
# No contraction to fused multiply-adds: every processor gives the same bits as TensorFlow.
_FLAGS = ("-std=gnu99", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 120
_lock = threading.Lock()


def kernels():
    """The compiled operations, a namespace of `crop_views` and `finish_views`, or None.

    None if `TF_SIMCLR_NATIVE=0`; if they cannot be compiled (logged once); or if another machine
    without them runs the input pipeline: the host of a remote TPU.
    """
    if os.environ.get(SWITCH, "1") == "0" or _has_remote_tpu():
        return None
    with _lock:
        return _compiled()


def state() -> str:
    """Describes what makes the views."""
    return "kernels in C" if kernels() else "TensorFlow's operations: no kernels in C"


def compiler() -> list[str] | None:
    """The command of the C compiler: `CC` from the environment, or the first on PATH."""
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    return next(([name] for name in _COMPILERS if shutil.which(name)), None)


def command(source: pathlib.Path, library: str) -> list[str]:
    """The command that compiles one kernel to `library`.

    Raises:
      FileNotFoundError: there is no compiler.
    """
    chosen = compiler()
    if not chosen:
        raise FileNotFoundError(f"none of {', '.join(_COMPILERS)} is on PATH")
    # Outside x86 the compiler's default already uses the vector unit.
    processor = ["-march=native"] if platform.machine() in ("x86_64", "AMD64") else []
    include = f"-I{tf.sysconfig.get_include()}"
    files = ["-shared", "-fPIC", include, str(source), "-o", library]
    return [*chosen, *_FLAGS, *processor, *files, *tf.sysconfig.get_link_flags(), "-lm"]


@functools.cache
def _compiled():
    try:
        # The loaded libraries outlive their files: nothing is left for another process to trust.
        with tempfile.TemporaryDirectory() as folder:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                libraries = list(pool.map(lambda name: _compile(name, folder), _KERNELS))
            loaded = {name: _load(name, path) for name, path in zip(_KERNELS, libraries)}
    except (OSError, ValueError, subprocess.SubprocessError, tf.errors.OpError) as error:
        logging.warning(
            "No kernels in C (%s): views are made by TensorFlow's operations, more slowly. With a "
            "C compiler they are compiled (Debian, Ubuntu: apt-get install gcc; macOS: "
            "xcode-select --install; or CC=/path/to/compiler). Where the folder for temporary "
            "files is mounted noexec, set TMPDIR to another. %s=0 silences this.",
            _first_line(error),
            SWITCH,
        )
        return None
    return types.SimpleNamespace(**loaded)


def _compile(name, folder):
    source = pathlib.Path(__file__).with_name(f"{name}.c")
    library = os.path.join(folder, f"{name}.so")
    subprocess.run(command(source, library), check=True, capture_output=True, timeout=_SECONDS)
    return library


def _load(name, library):
    return getattr(tf.load_op_library(library), f"tf_simclr_{name}")


def _first_line(error) -> str:
    said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
    return printable((said or str(error) or type(error).__name__).splitlines()[0])


def _has_remote_tpu() -> bool:
    return any(
        device.device_type == "TPU" and "/job:localhost" not in device.name
        for device in tf.config.list_logical_devices()
    )
