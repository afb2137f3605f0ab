"""Fuzzed inputs of five kinds, each made from one integer, its seed.

python tests/faults/fuzz.py --seed=N           replays one input and shows the whole fault
python tests/faults/fuzz.py --seed=N --keep=D  leaves its files in the new folder D
python tests/faults/fuzz.py --count=N          seeds 0 to N - 1
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path[0] = ROOT

from absl import logging  # noqa: E402

from tests.faults import flag_inputs, folder_inputs, image_inputs, workdir_inputs  # noqa: E402
from tests.faults.harness import SECONDS, Fault, Outcome, outcome_of, remove  # noqa: E402

# A seed's position in the wheel gives the kind of input; expensive kinds are rarer.
WHEEL = (
    *("flags",) * 6,
    *("flagfiles",) * 4,
    *("images",) * 5,
    *("folders",) * 3,
    *("workdirs",) * 2,
)
KINDS = tuple(dict.fromkeys(WHEEL))
IN_A_PROCESS = 150  # One in 150 command lines is also run by the binary itself.
SMALL = {
    **workdir_inputs.SMALL,
    "width_multiplier": 0.125,
    "strategy": "one_device",
    "workdir": "w",
}


def kind_of(seed: int) -> str:
    """The kind of input that a seed makes."""
    return WHEEL[seed % len(WHEEL)]


def run_input(seed: int, keep: str | None = None) -> Outcome:
    """Makes the input of a seed in a new folder, runs it and checks the outcome.

    Args:
      seed: any integer.
      keep: a folder to create for the input's files; None: they are deleted.
    """
    folder = keep or tempfile.mkdtemp(prefix="fuzz-")
    os.makedirs(folder, exist_ok=True)
    try:
        with _inside(folder):
            action, given = make_input(seed, folder)
            told = f"python tests/faults/fuzz.py --seed={seed}"
            return outcome_of(action, folder, told, **given)
    finally:
        if not keep:
            remove(folder)


def make_input(seed: int, folder: str):
    """Writes the files of a seed's input; returns (what to do with it, arguments of outcome_of)."""
    prepare_once(kind_of(seed))
    return _MAKERS[kind_of(seed)](random.Random(seed), folder)


def prepare_once(kind: str) -> None:
    """Makes what takes seconds once, outside the limits of an input."""
    logging.set_verbosity(logging.ERROR)
    if kind == "workdirs":
        workdir_inputs.saved_weights()
        workdir_inputs.parts()
    if kind in ("images", "folders"):
        for channels in (1, 3):
            with contextlib.suppress(ValueError):
                image_inputs.try_image(image_inputs.whole_images()[0], channels)


def _flags(rng, folder):
    arguments = flag_inputs.command_line(rng)
    also = rng.randrange(IN_A_PROCESS) == 0

    def action():
        try:
            flag_inputs.try_line(arguments)
        finally:
            if also:
                _binary(arguments)

    return action, {"argument_size": sum(map(len, arguments))}


def _flagfiles(rng, folder):
    if rng.random() < 0.5:
        arguments = flag_inputs.write_flagfiles(rng, folder)
        return lambda: flag_inputs.try_line(arguments), {}
    flag_inputs.write_resolved(rng, folder)
    return lambda: flag_inputs.try_resolved(rng), {}


def _images(rng, folder):
    data, channels = image_inputs.image_of(rng), rng.choice((1, 3))
    with open(os.path.join(folder, "image"), "wb") as file:
        file.write(data)
    return lambda: image_inputs.try_image(data, channels), {}


def _folders(rng, folder):
    folder_inputs.write_folder(rng, folder)
    return lambda: folder_inputs.try_folder(rng, folder), {"argument_size": 6000}


def _workdirs(rng, folder):
    workdir = workdir_inputs.write_workdir(rng, folder)
    action, may_change = workdir_inputs.choose(rng)
    return lambda: action(rng, workdir), {"may_change": may_change}


_MAKERS = {
    "flags": _flags,
    "flagfiles": _flagfiles,
    "images": _images,
    "folders": _folders,
    "workdirs": _workdirs,
}


def _binary(arguments):
    """Runs the binary on the same arguments, as the doctor, with a small encoder."""
    small = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "tf_simclr", *small, *map(os.fsencode, arguments)]
    most = int(8e9), resource.getrlimit(resource.RLIMIT_AS)[1]
    try:
        done = subprocess.run(
            [*command, "--mode=doctor"],
            env={**os.environ, "PYTHONPATH": ROOT, "PYTHONIOENCODING": "utf-8:strict"},
            capture_output=True,
            timeout=4 * SECONDS,  # It trains a few steps.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, most),
        )
    except subprocess.TimeoutExpired as error:
        raise Fault(f"the doctor on {arguments} takes more than {4 * SECONDS} s") from error
    told = done.stdout.strip() if done.returncode == 0 else done.stdout + done.stderr
    if b"Traceback" in done.stderr or not told or done.returncode < 0:
        said = done.stderr.decode("utf-8", "replace")[-1500:]
        raise Fault(f"the doctor on {arguments} ends with {done.returncode}: {said}")


@contextlib.contextmanager
def _inside(folder):
    here, home = os.getcwd(), os.environ.get("HOME")
    os.chdir(folder)
    os.environ["HOME"] = folder  # Keeps "~" in the sandbox.
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.pop("HOME")
        if home is not None:
            os.environ["HOME"] = home


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="one input")
    parser.add_argument("--keep", help="with --seed: where to leave its files")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kind", choices=KINDS, help="of these inputs only those of one kind")
    options = parser.parse_args()
    one = options.seed is not None
    first, count = (options.seed, 1) if one else (options.first, options.count)
    spent, ended = collections.Counter(), collections.Counter()
    for seed in range(first, first + count):
        kind = kind_of(seed)
        if options.kind not in (None, kind):
            continue
        prepare_once(kind)
        began = time.monotonic()
        outcome = run_input(seed, options.keep)
        spent[kind] += time.monotonic() - began
        word = "faults" if outcome.fault else "messages" if outcome.message else "successes"
        ended[kind, word] += 1
        if one or outcome.fault:
            text = outcome.fault or outcome.message or "success"
            print(f"seed {seed} ({kind}): {text}", flush=True)
    for kind in spent:
        counts = {w: ended[kind, w] for w in ("successes", "messages", "faults")}
        print(f"{kind}: {counts}, {spent[kind]:.1f} s")
    return int(any(word == "faults" for _, word in ended))


if __name__ == "__main__":
    sys.exit(main())
