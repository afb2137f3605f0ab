"""Command lines and flagfiles, most of them wrong, and the first steps of a run with them."""

from __future__ import annotations

import dataclasses
import os
import re
import types

import tensorflow as tf
from absl import flags

from tests.faults.harness import Fault
from tf_simclr import flag_defs
from tf_simclr.config import Config
from tf_simclr.data.draws import ViewOptions
from tf_simclr.data.splits import parse_split, slice_rows
from tf_simclr.flagfile import to_flagfile
from tf_simclr.storage import read_text
from tf_simclr.tasks import build, inputs
from tf_simclr.workdir import Workdir

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
PATHS = ("workdir", "init_from", "data_dir")
NUMBERS = (
    *("0", "1", "2", "-1", "3.5", "-0.0", "1e-3", "1e-320", "1e300", "1e999", "-1e999", "nan"),
    *("-nan", "inf", "-inf", "Infinity", "0x10", "0o17", "0b1", "1_000", "007", "+3", " 5 ", "5,"),
    *("2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775809", "1" + 30 * "0", "9" * 400, "9" * 5000, "٣", "²", "½", "1e", "--5"),
)
WORDS = (
    *("", " ", "True", "false", "yes", "None", "null", "all", "ALL", "1,5,all", ",", "1,,2", "²"),
    *(
        "é",
        "日本",
        "\u202e",
        "\u2028",
        "\x1b[31m",
        "\t",
        "a\nb",
        "a\n--seed=9",
        "\r",
        "\x85",
        "\x7f",
    ),
    *("\udcff", "a\udc80b", "%s", "%", "{}", "$HOME", "~", "~nobody", "a=b", "=", "--seed=1", "-"),
    *("#", "# x", "'", '"', "a b", " a", "a ", "x" * 300, "y" * 5000, "a/b", ".", "./a/", "a//b"),
    *(
        "lr=[1e-3,2]",
        "[",
        "a]b",
        "[!a]",
        "*",
        "a?",
        "a\\b",
        "{a,b}",
        "e\u0301",
        "\u00e9",
        "a:b",
        "~/x",
    ),
    *("~/", "~/~", "a/~", "./~", "~root/x", "lr=[1]/photos", "x" * 256, "digits", "folder"),
    *("foo://bar/baz", "resnet50", "RESNET18", "train[:90%]", "train[", "0"),
)
SLICES = (
    *("train", "test", "val", "validation", "TRAIN", " train ", "train[:90%]", "train[90%:]"),
    *("train[:]", "train[1:3]", "train[-2:]", "train[:-1]", "train[50%:50%]", "train[2:1]"),
    *("train[:101%]", "train[-100%:]", "train[:٣]", "train[:" + "9" * 5000 + "]", "train[0:0]"),
    *("train[::2]", "train[1]", "train[a:b]", "[:1]", "train[:1%", "train[:1.5%]", "train+test"),
    *(
        "train[:10%]+train[90%:]",
        "train[: 1]",
        "train[:1]]",
        "",
        "all",
        "train\n",
        "a/b",
        "..",
        "\0",
    ),
)
DAMAGE = b'\0\xff\n\r=-%\x1b9 #\xc3"a'


def damaged(rng, data: bytes, times: int) -> bytes:
    """Flips, removes, repeats or inserts a few bytes."""
    for _ in range(times):
        place = rng.randrange(len(data) + 1)
        end = min(place + rng.choice((1, 2, 8, 64)), len(data))
        kind = rng.randrange(6)
        if kind == 0 and place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            data = data[:place] + data[end:]
        elif kind == 3:
            data = data[:end] + data[place:]
        elif kind == 4:
            data = data[:place] + bytes(rng.choice(DAMAGE) for _ in range(3)) + data[place:]
        else:
            data = data[:place] + rng.randbytes(end - place) + data[end:]
    return data


def split_of(rng) -> str:
    """A split, sometimes damaged."""
    split = rng.choice(SLICES)
    if rng.random() < 0.3:
        split = damaged(rng, split.encode(), 1).decode("latin-1")
    return split


def value_of(rng, name: str) -> str:
    """A value for a flag, often of the wrong type or out of range."""
    field = FIELDS.get(name)
    if field is not None and rng.random() < 0.25:
        return str(field.default)
    if field is not None and field.metadata["choices"] and rng.random() < 0.5:
        return rng.choice(field.metadata["choices"])
    if name.endswith("_split"):
        return split_of(rng)
    number = field is not None and field.type in ("int", "float")
    if rng.random() < (0.85 if number else 0.15):
        return rng.choice(NUMBERS)
    return rng.choice(WORDS)


def argument_of(rng) -> list[str]:
    """A flag in one of its notations, or something that looks like one."""
    name = rng.choice([*FIELDS, *PATHS])
    if rng.random() < 0.08:
        name = damaged(rng, name.encode(), 1).decode("latin-1")
    value = value_of(rng, name)
    form = rng.random()
    if form < 0.7:
        return [f"--{name}={value}"]
    if form < 0.8:
        return [f"--{name}", value]
    if form < 0.9:
        return [rng.choice((f"--no{name}", f"--{name}", f"-{name}={value}", f"--no{name}={value}"))]
    odd = ("--", "-", "---x", value, "--=1", "--undefok=zzz", "--undefok", "--zzz=1", "--help")
    return [rng.choice(odd)]


def command_line(rng) -> list[str]:
    """Arguments after the program's name, of characters that an operating system can pass."""
    if rng.random() < 0.5:  # One odd setting among valid ones.
        name = rng.choice(list(FIELDS))
        return [
            inside(a).replace("\0", "") for a in ("--workdir=w", f"--{name}={value_of(rng, name)}")
        ]
    arguments = ["--workdir=w"] if rng.random() < 0.9 else []
    if rng.random() < 0.3:
        arguments += ["--mode=" + rng.choice(FIELDS["mode"].metadata["choices"]), "--init_from=v"]
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        arguments += argument_of(rng)
    return [inside(argument).replace("\0", "") for argument in arguments]


def inside(argument: str) -> str:
    """The argument without paths out of the sandbox, which is the working and the home folder."""
    name, equals, value = argument.partition("=")
    if name.lstrip("-").removeprefix("no") in PATHS and not value.startswith("foo://"):
        value = re.sub(r"^~(?=[^/])", "", value.lstrip("/").replace("..", "."))
    return name + equals + value


def try_line(arguments: list[str]) -> None:
    """Does with arguments what the binary does before training, as far as that is cheap."""
    config = parse(arguments)
    follow(config)


def parse(arguments: list[str]) -> Config:
    """The Config of a command line."""
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    left = flag_defs.parse(["tf_simclr", *arguments], values)
    if len(left) > 1:
        raise flags.Error(f"{left[1]!r} is not a flag")  # As in main.
    return flag_defs.config_from_flags(values)


def follow(config: Config) -> None:
    """Makes a config's plan, options and splits; claims the workdir and checks the claim."""
    tf.keras.utils.set_random_seed(config.seed)
    source = types.SimpleNamespace(num_examples=1297)
    plan = build.plan_of(config, source.num_examples, replicas=2)
    plan.schedule()(0)
    options = inputs.view_options(config)
    ViewOptions(**options)
    for split in (config.train_split, config.eval_split):
        name, bounds = parse_split(split)
        if bounds:
            slice_rows(None, source.num_examples, bounds)
    if config.data_dir and config.dataset == "folder":
        inputs.source_of(config, config.train_split)
    if not config.workdir:
        return
    run = build.identity_of(config)
    Workdir(config.workdir).check_is_of(run)
    Workdir(config.workdir).write_settings(run)
    changed = run.changed_from(read_text(Workdir(config.workdir) / "flags.resolved"))
    if changed:
        raise Fault(f"a run is not recognised by its own flags.resolved: {changed}")


def write_flagfiles(rng, folder: str) -> list[str]:
    """Writes flagfiles that include each other or are invalid; returns arguments that name them."""
    names = [f"{i}.flags" for i in range(rng.choice((1, 2, 3, 5)))]
    for name in names:
        lines = [inside(line) for _ in range(rng.choice((0, 1, 3))) for line in argument_of(rng)]
        lines += rng.choice(([], [], ["# a comment"], ["// one"], ["", " "], ["--seed=3"]))
        if rng.random() < 0.5:
            to = rng.choice([*names, "missing", ".", "", "~", "a\udcff", "x" * 300])
            lines.append(rng.choice(("--flagfile=", "-flagfile=", "--flagfile ", "flagfile=")) + to)
        rng.shuffle(lines)
        data = rng.choice(("\n", "\r\n", "\r")).join(lines).encode("utf-8", "surrogateescape")
        data = rng.choice(
            (data,) * 4 + (b"\xef\xbb\xbf" + data, data.decode("latin-1").encode("utf-16"))
        )
        if rng.random() < 0.3:
            data = damaged(rng, data, rng.choice((1, 3, 20)))
        with open(os.path.join(folder, name), "wb") as file:
            file.write(_contained(data))
    if rng.random() < 0.01:  # A chain deeper than Python's stack.
        for i in range(1200):
            with open(os.path.join(folder, f"{i}.flags"), "w") as file:
                file.write(f"--flagfile={i + 1}.flags\n")
    arguments = ["--workdir=w", rng.choice(("--flagfile=0.flags",) * 2 + ("--flagfile",))]
    if arguments[-1] == "--flagfile":
        arguments.append(rng.choice(("0.flags", "missing", ".", "")))
    return arguments


def _contained(data: bytes) -> bytes:
    """The flagfile without paths out of the sandbox."""
    return data.replace(b"=/", b"=").replace(b"..", b".").replace(b" /", b" ")


def write_resolved(rng, folder: str) -> None:
    """Writes a workdir with the flags.resolved of a real run, intact or damaged."""
    os.makedirs(os.path.join(folder, "w"))
    text = to_flagfile(Config(workdir="w", encoder="resnet18", train_steps=rng.randrange(9)))
    lines = text.splitlines(keepends=True)
    for _ in range(rng.choice((0, 1, 2))):
        name = rng.choice(list(FIELDS))
        lines.insert(rng.randrange(len(lines)), f"--{name}={value_of(rng, name)}\n")
    data = "".join(lines).encode("utf-8", "surrogateescape")
    if rng.random() < 0.6:
        data = damaged(rng, data, rng.choice((1, 2, 10)))
    path = os.path.join(folder, "w", "flags.resolved")
    if rng.random() < 0.03:
        os.makedirs(path)
        return
    with open(path, "wb") as file:
        file.write(_contained(data))


def try_resolved(rng) -> None:
    """Parses for a mode that inherits the run's settings, or continues a run in its folder."""
    if rng.random() < 0.5:
        modes = ("knn_eval", "linear_eval", "export", "finetune", "pretrain", "doctor")
        mode = rng.choice(modes)
        more = ["--init_from=w"] if mode == "finetune" else []
        parse([f"--mode={mode}", "--workdir=w", *more])
    else:
        run = build.identity_of(Config(workdir="w", encoder="resnet18", train_steps=3))
        Workdir("w").write_settings(run)
