"""The names of the files in a checkpoints folder."""

from __future__ import annotations

import re

import tensorflow as tf

gfile = tf.io.gfile

MANIFEST = "manifest.json"


def names_in(directory: str) -> list[str]:
    names = gfile.listdir(directory) if gfile.isdir(directory) else []
    return [name.rstrip("/") for name in names]


def step_of(name: str) -> int | None:
    match = re.match(r"ckpt-(\d+)\.", name)
    return int(match[1]) if match else None


def steps_in(directory: str) -> list[int]:
    """Steps of the checkpoints in a folder, ascending."""
    found = [step_of(name) for name in names_in(directory) if name.endswith(".index")]
    return sorted(step for step in found if step is not None)
