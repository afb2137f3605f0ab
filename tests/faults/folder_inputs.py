"""Ordinary and pathological folders: names, links, kinds of files, splits."""

from __future__ import annotations

import os
import socket

from tests.faults.flag_inputs import split_of
from tests.faults.harness import Fault
from tests.faults.image_inputs import image_of, whole_images
from tf_simclr.data.bad_images import naming_bad_images
from tf_simclr.data.in_order import eval_dataset
from tf_simclr.data.listing import SYSTEM_FOLDERS
from tf_simclr.data.pipeline import two_view_dataset
from tf_simclr.data.sources import find_bad_images, open_source
from tf_simclr.data.split_folders import text_of

FOLDERS = (
    *(b"", b"", b"a", b"b", b"cat", b"train", b"test", b"val", b"validation", b"Train", b"TEST"),
    *(
        b".hidden",
        b"a b",
        b"\xff\xfe",
        b"new\nline",
        b"\xe6\x97\xa5",
        b"x.png",
        b"[1]",
        b"%s",
        b"~",
    ),
    *(b"n" * 200, b" ", b"\\", b"\x1b[31m", b"extra"),
    *(b"valid", b"dev", b"Training", b"Test_Set", b"eval", b"train2017"),
    *(b"caf\xc3\xa9", b"cafe\xcc\x81", b"@eaDir", b"lost+found", b"__MACOSX", b"$RECYCLE.BIN"),
)
NAMES = (
    *(b"0", b"1", b"2", b"3", b"4", b"5", b".hidden", b"\xff", b"new\nline", b"a b", b"%d", b"*"),
    *(b"n" * 200, b"\xc3\xa9", b"x.jpg", b"-", b"\x1b[0m", b"\x7f"),
)
ENDINGS = (
    *(b".png", b".jpg", b".JPEG", b".gif", b".bmp", b".PNG", b".txt", b"", b".", b".webp"),
    *(b".jfif", b".JPE", b".\xff", b".tar.gz", b".0001", b".TIFF"),
)


def write_folder(rng, folder: str) -> None:
    """Writes a folder "d" with some files."""
    root = os.path.join(os.fsencode(folder), b"d")
    if rng.random() < 0.02:
        return rng.choice((lambda: None, lambda: _write(root, b"a file")))()
    os.makedirs(root)
    depth = rng.choice((0, 1, 1, 1, 2, 3))
    above = [root] + [os.path.join(root, rng.choice(FOLDERS)) for _ in range(depth)]
    for _ in range(rng.choice((0, 1, 3, 6, 12))):
        where = os.path.join(rng.choice(above), rng.choice(FOLDERS))
        try:
            os.makedirs(where, exist_ok=True)
        except (FileExistsError, NotADirectoryError):  # A file has that name.
            continue
        path = os.path.join(
            where, rng.choice(NAMES) + rng.choice(ENDINGS[: rng.choice((2, len(ENDINGS)))])
        )
        if not os.path.lexists(path):
            _make(rng, path, root)
    if rng.random() < 0.04 and os.geteuid():  # root can read everything.
        os.chmod(rng.choice([here for here, _, _ in os.walk(root)]), 0)


def _make(rng, path: bytes, root: bytes) -> None:
    kind = rng.random()
    if kind < 0.75:
        _write(path, rng.choice(whole_images()))
    elif kind < 0.85:
        _write(path, image_of(rng))
    elif kind < 0.95:
        top = os.path.relpath(root, os.path.dirname(path))
        itself = os.path.basename(path)
        targets = (top, itself, b"nowhere", b"..", b".", b"/dev/null", b"/dev/zero", b"x.png")
        os.symlink(rng.choice(targets), path)
    elif kind < 0.97:
        os.mkfifo(path)
    elif kind < 0.98 and len(path) < 100:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    else:
        os.makedirs(path)


def _write(path: bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def try_folder(rng, folder: str) -> None:
    """Opens a split and looks for bad files; sometimes also makes a batch, as a run does."""
    usual = ("train",) * 4 + ("test", "val", "valid", "Training")
    split = split_of(rng) if rng.random() < 0.3 else rng.choice(usual)
    path = os.path.join(folder, rng.choice(("d", "d", "d", "d/", "./d", "d/train", "d/a")))
    options = {
        "channels": rng.choice((None, None, 1, 3, 3, 2)),
        "skip_bad_images": rng.random() < 0.7,
    }
    source = open_source("folder", path, split, **options)
    names = [source.describe(index) for index in range(source.num_examples)]
    missing = [name for name in names if not os.path.lexists(name)]
    if missing:
        raise Fault(f"{missing} are no files")
    if len(set(names)) != len(names):
        raise Fault("a file is there twice")
    if source.labels is not None and not len(source.labels) == len(names):
        raise Fault("not a label for each image")
    for number, name in enumerate(names):
        parts = os.fsencode(os.path.relpath(name, source.folder)).split(b"/")
        if {part.lower() for part in parts[:-1]} & SYSTEM_FOLDERS:
            raise Fault(f"{name} is in a folder of a system")
        if source.labels is not None:
            if source.class_names[source.labels[number]] != text_of(parts[0]):
                raise Fault(f"{name} has the label {source.labels[number]}")
    if rng.random() < 0.5:
        find_bad_images(source)
    if rng.random() < 0.1:
        _batch(rng, source)


def _batch(rng, source) -> None:
    size = rng.choice((1, 2, source.num_examples))
    with naming_bad_images(source):
        if rng.random() < 0.5:
            dataset = two_view_dataset(source, batch_size=size, image_size=6, blur=False)
        else:
            dataset = eval_dataset(source, batch_size=size, image_size=6)
        next(iter(dataset))
