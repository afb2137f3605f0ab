"""A run's state on disk: written whole or not at all, restored strictly; an encoder from either.

A checkpoint is what `tf.train.Checkpoint(**parts).write` makes (`ckpt-<step>.index`, `.data-*`), so
any TensorFlow program can read it; `manifest.json` beside it says how to rebuild the encoder.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import plain_copy

gfile = tf.io.gfile

MANIFEST = "manifest.json"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_BOOKKEEPING = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter" + _VALUE)
_LISTED = 20  # Variables of each kind an error names.
# What TensorFlow's reader raises on files that are no checkpoint, or half of one.
_UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, IndexError)


class RunCheckpoints:
    """The checkpoints of one run in one folder, the newest `keep` of them.

    A reader, or a run killed at any moment, finds only whole checkpoints: one exists once its index
    file does, which is written last, and older ones go only then.

    With several hosts every one of them must call `save`, as reading a variable may need all of
    them; only the chief leaves files.
    """

    def __init__(self, directory, *, keep: int = 5, manifest: dict | None = None, **parts):
        """Touches nothing on disk.

        Args:
          directory: the folder, local or of any scheme `tf.io.gfile` knows; made when needed.
          keep: how many checkpoints stay, >= 1.
          manifest: JSON-ready; "encoder" (`tf.keras.saving.serialize_keras_object`) is what
            `load_encoder_from` rebuilds the encoder from.
          **parts: models, layers, optimisers, variables. An optimiser that has no variables yet
            gets them now, for the trainable variables of the parts before it (up to the previous
            optimiser): name an optimiser after what it trains, in the order it trains it.
        """
        if keep < 1:
            raise UserError(f"keep must be at least 1; received {keep!r}.")
        self.directory = os.fspath(directory)
        self.keep = keep
        self.manifest = manifest or {}
        self.parts = parts
        _build_optimizers(parts)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        found = (re.fullmatch(r"ckpt-(\d+)\.index", name) for name in _names_in(self.directory))
        return sorted(int(match[1]) for match in found if match)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`, then removes all but the newest `keep`.

        Raises:
          UserError: it could not be written; the older ones are untouched.
        """
        checkpoint = tf.train.Checkpoint(**self.parts)
        if not _strategy_of(checkpoint).extended.should_checkpoint:
            with tempfile.TemporaryDirectory() as scratch:
                checkpoint.write(os.path.join(scratch, "ckpt"))
            return
        try:
            gfile.makedirs(self.directory)
            self._remove("tmp-")  # Of a run that was killed while saving.
            checkpoint.write(os.path.join(self.directory, f"tmp-{step}"))
            self._publish(step)
        except tf.errors.OpError as error:
            self._remove("tmp-")
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.directory}: "
                f"{error.message} The older ones are whole; make room or choose another folder."
            ) from error
        newest = sorted(set(self.steps()) - {step})[-self.keep + 1 :] if self.keep > 1 else []
        for old in set(self.steps()) - {step, *newest}:
            self._remove(f"ckpt-{old}.index")  # First: without it the rest is no checkpoint.
            self._remove(f"ckpt-{old}.data-")

    def restore_latest(self) -> int | None:
        """Restores the newest checkpoint into the parts, all of it or nothing.

        Returns:
          Its step; None where there is no checkpoint, and nothing changed.

        Raises:
          UserError: as `restore`.
        """
        step = self.latest_step()
        if step is not None:
            try:
                restore(os.path.join(self.directory, f"ckpt-{step}"), **self.parts)
            except DamagedCheckpoint as error:
                raise DamagedCheckpoint(f"{error} {self._way_out(step)}") from error
        return step

    def _publish(self, step: int) -> None:
        temporary, final = f"tmp-{step}.", f"ckpt-{step}."
        self._remove(final + "index")  # An older one of the same step must not mix with the new.
        names = [name for name in _names_in(self.directory) if name.startswith(temporary)]
        for name in sorted(names, key=lambda name: name.endswith(".index")):
            if name.endswith(".index"):
                write_json(os.path.join(self.directory, MANIFEST), self.manifest)
            target = final + name[len(temporary) :]
            gfile.rename(*(os.path.join(self.directory, n) for n in (name, target)), overwrite=True)

    def _remove(self, prefix: str) -> None:
        for name in _names_in(self.directory):
            if name.startswith(prefix):
                path = os.path.join(self.directory, name)
                gfile.rmtree(path) if gfile.isdir(path) else gfile.remove(path)

    def _way_out(self, step: int) -> str:
        older = [other for other in self.steps() if other != step]
        if older:
            return f"Remove ckpt-{step}.* to go on from step {older[-1]}."
        return f"There is no older one: remove {self.directory} to start again."


class DamagedCheckpoint(UserError):
    """A checkpoint whose files cannot be read."""


@dataclasses.dataclass(frozen=True)
class RestoreReport:
    """What happened to each variable; names as in `variable_paths`.

    After a restore that did not raise, the last three hold variables of ignored parts only.

    Attributes:
      matched: restored.
      missing: in the model, not in the checkpoint; left as they were.
      unexpected: in the checkpoint, not in the model.
      mismatched: in both, but of another shape or dtype; left as they were.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()


def restore(path, *, ignore: Iterable[str] = (), **parts) -> RestoreReport:
    """Restores parts from a checkpoint if everything in it fits, else changes nothing.

    The whole checkpoint is read into host memory before the first variable changes.

    Args:
      path: the checkpoint's path without ".index".
      ignore: names of parts, in the checkpoint or given here, that need not fit; what fits of
        them is restored.
      **parts: as given to `RunCheckpoints`, or some of them.

    Returns:
      What was restored and what was not.

    Raises:
      UserError: variables missing, unexpected or of another shape, all listed; no such checkpoint.
      DamagedCheckpoint: a file of it cannot be read.
    """
    path = os.fspath(path)
    _build_optimizers(parts)
    live = variable_paths(tf.train.Checkpoint(**parts))
    reader, saved = _open(path)
    both = [key for key in live if key in saved]
    misfits = [key for key in both if saved[key] != _kind(live[key])]
    report = RestoreReport(
        matched=tuple(sorted(set(both) - set(misfits))),
        missing=tuple(sorted(set(live) - set(saved))),
        unexpected=tuple(sorted(set(saved) - set(live))),
        mismatched=tuple(sorted(misfits)),
    )
    _refuse(path, report, set(ignore), live, saved)
    try:
        values = {key: reader.get_tensor(key) for key in report.matched}
    except _UNREADABLE as error:
        raise _damaged(path, ".data-", error) from error
    for key, value in values.items():
        live[key].assign(value)
    logging.info("Restored %d variables from %s.", len(values), path)
    return report


def variable_paths(root: tf.train.Checkpoint) -> dict[str, tf.Variable]:
    """Every variable below `root` under the name `root.write` gives it.

    The name is the first path in breadth-first order; slot variables of legacy optimisers
    (tensorflow-addons) hang below the variable they belong to.
    """
    view = tf.train.TrackableView
    prefixes, queue = {id(root): ""}, collections.deque([root])
    nodes, found = [], {}
    while queue:
        node = queue.popleft()
        nodes.append(node)
        prefix = prefixes[id(node)]
        if isinstance(node, tf.Variable):
            found[prefix + _VALUE] = node
        for name, child in view.children(node).items():
            if id(child) not in prefixes:
                name = name.replace(".", "..").replace("/", ".S")
                prefixes[id(child)] = f"{prefix}/{name}" if prefix else name
                queue.append(child)
    variables = [node for node in nodes if isinstance(node, tf.Variable)]
    for node in nodes:
        if not isinstance(node, tf.keras.optimizers.legacy.Optimizer):
            continue
        for slot in node.get_slot_names():
            for variable in variables:
                value = _slot_of(node, variable, slot)
                if value is not None:
                    owner = f"{prefixes[id(variable)]}{_SLOT}{prefixes[id(node)]}/{slot}"
                    found[owner + _VALUE] = value
    return found


def load_encoder_from(path) -> tf.keras.Model:
    """Loads an encoder from whatever holds one.

    Args:
      path: a workdir (its newest checkpoint, else its export), its checkpoints folder, a
        checkpoint, an exported encoder's folder, or a .keras file.

    Returns:
      The encoder: float32, plain batch normalisation, every layer trainable.

    Raises:
      UserError: none is there, with what was looked for; or it cannot be read.
    """
    path = os.fspath(path).rstrip("/")
    for prefix in _checkpoints_at(path):
        return _from_checkpoint(prefix)
    files = [path] if path.endswith(".keras") else []
    files += [os.path.join(path, name) for name in ("encoder.keras", "encoder/encoder.keras")]
    for file in files:
        if gfile.exists(file):
            return _from_keras_file(file)
    raise UserError(
        f"no encoder at {path!r}: it is no checkpoint ({path}.index), no .keras file, and no "
        "folder with checkpoints/ckpt-<step>.index, ckpt-<step>.index, encoder.keras or "
        "encoder/encoder.keras."
    )


def read_manifest(directory) -> dict[str, Any]:
    """What `manifest.json` of a checkpoints folder says.

    Raises:
      UserError: it is not there or cannot be read.
    """
    file = os.path.join(os.fspath(directory), MANIFEST)
    try:
        with gfile.GFile(file, "r") as opened:
            return json.loads(opened.read())
    except tf.errors.NotFoundError as error:
        raise UserError(f"{file} is missing, so the encoder cannot be rebuilt.") from error
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from error


def write_json(path: str, content: dict) -> None:
    """Replaces a JSON file whole: a crash leaves the old one or the new one."""
    with gfile.GFile(path + ".tmp", "w") as file:
        file.write(json.dumps(content, indent=2, default=_plain_value) + "\n")
    gfile.rename(path + ".tmp", path, overwrite=True)


def _plain_value(value):
    return value.item() if hasattr(value, "item") else str(value)  # NumPy scalars; paths, dates.


def _names_in(directory: str) -> list[str]:
    if not gfile.isdir(directory):
        return []
    return [name.rstrip("/") for name in gfile.listdir(directory)]


def _strategy_of(checkpoint) -> tf.distribute.Strategy:
    """The strategy whose variables these are, also outside its scope."""
    for variable in variable_paths(checkpoint).values():
        if hasattr(variable, "distribute_strategy"):
            return variable.distribute_strategy
    return tf.distribute.get_strategy()


def _build_optimizers(parts: dict) -> None:
    """Makes the variables of optimisers that have none yet; the rule is `RunCheckpoints`'."""
    trained = []
    for part in parts.values():
        legacy = isinstance(part, tf.keras.optimizers.legacy.Optimizer)
        if legacy or isinstance(part, tf.keras.optimizers.Optimizer):
            if legacy:
                part._create_all_weights(trained)  # It has no public build.
            else:
                part.build(trained)
            trained = []
        else:
            trained += getattr(part, "trainable_variables", [])


def _slot_of(optimizer, variable, name):
    try:
        return optimizer.get_slot(variable, name)
    except (KeyError, AttributeError):
        return None


def _kind(variable) -> tuple[tuple[int, ...], tf.DType]:
    return tuple(variable.shape), variable.dtype.base_dtype


def _open(path: str):
    """(reader, {name: (shape, dtype)}) of a checkpoint."""
    if not gfile.exists(path + ".index"):
        raise UserError(f"no checkpoint at {path!r}: {path}.index does not exist.")
    try:
        reader = tf.train.load_checkpoint(path)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except _UNREADABLE as error:
        raise _damaged(path, ".index", error) from error
    names = [name for name in shapes if name not in _BOOKKEEPING]
    return reader, {name: (tuple(shapes[name]), dtypes[name].base_dtype) for name in names}


def _damaged(path: str, suffix: str, error: Exception) -> DamagedCheckpoint:
    directory, name = os.path.split(path)
    files = [n for n in _names_in(directory or ".") if n.startswith(name + suffix)]
    file = os.path.join(directory, files[0] if files else name + suffix + "*")
    reason = getattr(error, "message", None) or str(error)
    state = "is damaged" if files else "is missing"
    return DamagedCheckpoint(f"checkpoint file {file} {state}: {reason.splitlines()[0]}.")


def _part_of(key: str) -> str:
    """The part a variable belongs to; a slot variable belongs to its optimiser."""
    return key.split(_SLOT)[-1].split("/")[0]


def _refuse(path, report: RestoreReport, ignore: set[str], live: dict, saved: dict) -> None:
    """Raises UserError if anything outside the ignored parts does not fit."""

    def strict(keys):
        return [key for key in keys if _part_of(key) not in ignore]

    def describe(kind):
        return f"{list(kind[0])} {kind[1].name}"

    kinds = (
        ("in the model but not in the checkpoint", report.missing),
        ("in the checkpoint but not in the model", report.unexpected),
        ("of another shape or dtype", report.mismatched),
    )
    lines = []
    for title, keys in kinds:
        keys = strict(keys)
        if keys:
            lines.append(f"{len(keys)} {title}:")
        for key in keys[:_LISTED]:
            sides = [f"checkpoint {describe(saved[key])}"] if key in saved else []
            sides += [f"model {describe(_kind(live[key]))}"] if key in live else []
            lines.append(f"  {key.removesuffix(_VALUE)}: {', '.join(sides)}")
        if len(keys) > _LISTED:
            lines.append(f"  and {len(keys) - _LISTED} more")
    if lines:
        raise UserError(
            f"checkpoint {path} does not fit the model; nothing was changed. Variables\n"
            + "\n".join(lines)
        )


def _checkpoints_at(path: str) -> list[str]:
    """The checkpoint a path stands for, if any: itself, or the newest of a folder."""
    prefix = path.removesuffix(".index")
    if gfile.exists(prefix + ".index"):
        return [prefix]
    for directory in (os.path.join(path, "checkpoints"), path):
        step = RunCheckpoints(directory).latest_step()
        if step is not None:
            return [os.path.join(directory, f"ckpt-{step}")]
    return []


def _from_checkpoint(prefix: str) -> tf.keras.Model:
    directory = os.path.dirname(prefix)
    config = read_manifest(directory).get("encoder")
    if config is None:
        raise UserError(f"{os.path.join(directory, MANIFEST)} does not describe an encoder.")
    try:
        encoder = tf.keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # A config may fail in any way; none of them is ours to mend.
        raise UserError(f"the encoder in {directory}/{MANIFEST} cannot be built: {error}") from error
    others = {_part_of(key) for key in _open(prefix)[1]} - {"encoder"}
    restore(prefix, ignore=others, encoder=encoder)
    return _fresh(encoder)


def _from_keras_file(file: str) -> tf.keras.Model:
    try:
        return _fresh(tf.keras.models.load_model(file, compile=False, safe_mode=True))
    except Exception as error:  # A file may be broken in any way.
        raise UserError(f"{file} cannot be loaded: {error}") from error


def _fresh(encoder: tf.keras.Model) -> tf.keras.Model:
    encoder = plain_copy(encoder)
    encoder.trainable = True
    return encoder
