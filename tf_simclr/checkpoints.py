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

import tensorflow as tf
from absl import logging

from tf_simclr.errors import UserError
from tf_simclr.models.batch_norm import plain_copy

gfile = tf.io.gfile

_MANIFEST = "manifest.json"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_BOOKKEEPING = (_GRAPH, "save_counter" + _VALUE)
_LISTED = 20  # Variables of each kind that an error names.
# What TensorFlow's reader raises on files that are no checkpoint, or half of one.
_UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, IndexError)


class RunCheckpoints:
    """The checkpoints of one run in one folder, the newest `keep` of them.

    A reader, or a run killed at any moment, finds only whole checkpoints: one exists once its index
    file does, which is written last, and older ones go only then.

    With several hosts each must call `save`, as reading a variable may need all of them; only the
    chief leaves files.
    """

    def __init__(self, directory, *, keep: int = 5, manifest: dict | None = None, **parts):
        """Touches nothing on disk.

        Args:
          directory: the folder, local or of any scheme `tf.io.gfile` knows; made when needed.
          keep: how many checkpoints stay, >= 1.
          manifest: JSON-ready; "encoder" (`tf.keras.saving.serialize_keras_object`) is what
            `load_encoder_from` rebuilds the encoder from.
          **parts: models, layers, optimisers, variables. An optimiser without variables gets them
            now, for the trainable variables of the parts named before it and after the previous
            optimiser: name it after what it trains.
        """
        if keep < 1:
            raise UserError(f"keep must be at least 1; received {keep!r}.")
        self.directory = os.fspath(directory)
        self.keep = keep
        self.manifest = json.dumps(manifest or {}, indent=2) + "\n"
        self.parts = parts
        _build_optimizers(parts)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; None where there is none."""
        return max(_steps_in(self.directory), default=None)

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`, then removes all but the newest `keep`.

        Raises:
          UserError: it could not be written; the older ones are untouched.
        """
        checkpoint = tf.train.Checkpoint(**self.parts)
        strategy = _strategy_of(variable_paths(checkpoint).values())
        if not strategy.extended.should_checkpoint:
            with tempfile.TemporaryDirectory() as scratch:
                checkpoint.write(os.path.join(scratch, "ckpt"))
            return
        try:
            gfile.makedirs(self.directory)
            self._remove(_is_temporary)  # Of a run that was killed while saving.
            checkpoint.write(os.path.join(self.directory, f"tmp-{step}"))
            self._publish(step)
        except tf.errors.OpError as error:
            self._remove(_is_temporary)
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.directory}: "
                f"{error.message} The older ones are whole; make room or choose another folder."
            ) from error
        others = [other for other in _steps_in(self.directory) if other != step]
        kept = {step, *others[max(len(others) - self.keep + 1, 0) :]}
        self._remove(lambda name: _step_of(name) not in kept | {None})

    def restore_latest(self) -> int | None:
        """Restores the newest checkpoint into the parts, all of it or nothing.

        Returns:
          Its step; None where there is no checkpoint.

        Raises:
          UserError: as `restore`.
        """
        step = self.latest_step()
        if step is not None:
            restore(os.path.join(self.directory, f"ckpt-{step}"), **self.parts)
        return step

    def _publish(self, step: int) -> None:
        """Gives the files of a checkpoint their names, the index last."""
        index, data = f"ckpt-{step}.index", f"ckpt-{step}.data-"
        self._remove(lambda name: name == index)  # Not to mix with the new data for a moment.
        self._remove(lambda name: name.startswith(data))
        for name in _names_in(self.directory):
            if name.startswith(f"tmp-{step}.data-"):
                self._rename(name, name.replace(f"tmp-{step}.data-", data))
        with gfile.GFile(os.path.join(self.directory, "tmp-" + _MANIFEST), "w") as file:
            file.write(self.manifest)
        self._rename("tmp-" + _MANIFEST, _MANIFEST)
        self._rename(f"tmp-{step}.index", index)

    def _rename(self, name: str, to: str) -> None:
        paths = [os.path.join(self.directory, n) for n in (name, to)]
        gfile.rename(*paths, overwrite=True)

    def _remove(self, which) -> None:
        names = [name for name in _names_in(self.directory) if which(name)]
        for name in sorted(names, reverse=True):  # ".index" before ".data": then it is none.
            path = os.path.join(self.directory, name)
            gfile.rmtree(path) if gfile.isdir(path) else gfile.remove(path)


@dataclasses.dataclass(frozen=True)
class RestoreReport:
    """What happened to each variable; names as in `variable_paths`.

    Of a restore that did not raise, all but the first hold variables of ignored parts only.

    Attributes:
      matched: restored.
      missing: in the model, not in the checkpoint; left as they were.
      unexpected: in the checkpoint, not in the model.
      mismatched: in both, of another shape or dtype; left as they were.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


def restore(path, *, ignore: Iterable[str] = (), **parts) -> RestoreReport:
    """Restores parts from a checkpoint if everything in it fits, else changes nothing.

    The whole checkpoint is read into host memory before the first variable changes.

    Args:
      path: the checkpoint's path without ".index".
      ignore: names of parts, there or here, that need not fit; what fits of them is restored.
      **parts: as given to `RunCheckpoints`, or some of them.

    Returns:
      What was restored and what was not.

    Raises:
      UserError: variables are missing, unexpected or of another shape, all listed; or a file of
        the checkpoint is missing or damaged, named.
    """
    path = os.fspath(path)
    reader, saved = _open(path)
    _build_optimizers(parts)
    live = variable_paths(tf.train.Checkpoint(**parts))
    both = live.keys() & saved.keys()
    misfits = {key for key in both if saved[key] != _kind_of(live[key])}
    report = RestoreReport(
        matched=tuple(sorted(both - misfits)),
        missing=tuple(sorted(live.keys() - both)),
        unexpected=tuple(sorted(saved.keys() - both)),
        mismatched=tuple(sorted(misfits)),
    )
    _refuse_misfits(path, report, set(ignore), live, saved)
    try:
        if reader.has_tensor(_GRAPH):
            reader.get_tensor(_GRAPH)  # Unused, but read to find a file cut short in it.
        values = {key: reader.get_tensor(key) for key in report.matched}
    except _UNREADABLE as error:
        raise _damaged(path, ".data-", error) from error
    for key, value in values.items():
        live[key].assign(value)
    logging.info("Restored %d variables from %s.", len(values), path)
    return report


def variable_paths(root: tf.train.Checkpoint) -> dict[str, tf.Variable]:
    """Every variable below `root`, by the name under which `root.write` stores it.

    The name is the first path in breadth-first order; slot variables of legacy optimisers
    (tensorflow-addons) hang below the variable they belong to.
    """
    paths, queue = {id(root): ""}, collections.deque([root])
    nodes = []  # Keeps the nodes alive, and so their ids unique.
    while queue:
        node = queue.popleft()
        nodes.append(node)
        for name, child in tf.train.TrackableView.children(node).items():
            if id(child) not in paths:
                name = name.replace(".", "..").replace("/", ".S")
                paths[id(child)] = f"{paths[id(node)]}/{name}".lstrip("/")
                queue.append(child)
    variables = [node for node in nodes if isinstance(node, tf.Variable)]
    found = {paths[id(variable)] + _VALUE: variable for variable in variables}
    for optimizer in nodes:
        if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
            for slot in optimizer.get_slot_names():
                for variable in variables:
                    value = _slot_of(optimizer, variable, slot)
                    if value is not None:
                        owner, by = paths[id(variable)], paths[id(optimizer)]
                        found[f"{owner}{_SLOT}{by}/{slot}{_VALUE}"] = value
    return found


def load_encoder_from(path) -> tf.keras.Model:
    """Loads an encoder from whatever holds one.

    Args:
      path: a workdir (its newest checkpoint, else its export), a checkpoints folder, a checkpoint,
        an exported encoder's folder, or a .keras file.

    Returns:
      The encoder: float32, plain batch normalisation, every layer trainable.

    Raises:
      UserError: none is there, with what was looked for; or it cannot be read.
    """
    encoder = plain_copy(_find_encoder(os.fspath(path)))
    encoder.trainable = True
    return encoder


def _find_encoder(path: str) -> tf.keras.Model:
    if gfile.exists(path.removesuffix(".index") + ".index"):
        return _from_checkpoint(path.removesuffix(".index"))
    for directory in (os.path.join(path, "checkpoints"), path):
        step = max(_steps_in(directory), default=None)
        if step is not None:
            return _from_checkpoint(os.path.join(directory, f"ckpt-{step}"))
    files = [path] if path.endswith(".keras") else []
    files += [os.path.join(path, name) for name in ("encoder.keras", "encoder/encoder.keras")]
    for file in files:
        if gfile.exists(file) and not gfile.isdir(file):
            try:
                return tf.keras.models.load_model(file, compile=False, safe_mode=True)
            except Exception as error:  # A broken file can fail in any way.
                raise UserError(f"{file} cannot be loaded: {error}") from error
    raise UserError(
        f"no encoder at {path!r}: it is no checkpoint ({path}.index), no .keras file, and no "
        "folder with checkpoints/ckpt-<step>.index, ckpt-<step>.index, encoder.keras or "
        "encoder/encoder.keras."
    )


def _from_checkpoint(path: str) -> tf.keras.Model:
    file = os.path.join(os.path.dirname(path), _MANIFEST)
    try:
        with gfile.GFile(file, "r") as opened:
            config = json.loads(opened.read())["encoder"]
        encoder = tf.keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # A missing, broken or foreign manifest can fail in any way.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the encoder cannot be rebuilt from {file}: {reason}") from error
    others = {_part_of(key) for key in _open(path)[1]} - {"encoder"}
    restore(path, ignore=others, encoder=encoder)
    return encoder


def _build_optimizers(parts: dict) -> None:
    """Makes the variables of optimisers that have none; the rule is in `RunCheckpoints`."""
    trained = []
    for part in parts.values():
        if isinstance(part, tf.keras.optimizers.legacy.Optimizer):
            part._create_all_weights(trained)  # It has no public build.
        elif isinstance(part, tf.keras.optimizers.Optimizer):
            with _strategy_of(trained).scope():
                part.build(trained)
        else:
            trained = trained + list(getattr(part, "trainable_variables", ()))
            continue
        trained = []


def _strategy_of(variables) -> tf.distribute.Strategy:
    """The strategy the variables were made in, also outside its scope."""
    for variable in variables:
        if hasattr(variable, "distribute_strategy"):
            return variable.distribute_strategy
    return tf.distribute.get_strategy()


def _slot_of(optimizer, variable, name):
    try:
        return optimizer.get_slot(variable, name)
    except KeyError:
        return None


def _names_in(directory: str) -> list[str]:
    names = gfile.listdir(directory) if gfile.isdir(directory) else []
    return [name.rstrip("/") for name in names]


def _is_temporary(name: str) -> bool:
    return name.startswith("tmp-")


def _step_of(name: str) -> int | None:
    match = re.match(r"ckpt-(\d+)\.", name)
    return int(match[1]) if match else None


def _steps_in(directory: str) -> list[int]:
    """Steps of the checkpoints in a folder, ascending."""
    found = [_step_of(name) for name in _names_in(directory) if name.endswith(".index")]
    return sorted(step for step in found if step is not None)


def _kind_of(variable) -> tuple[list[int], str]:
    return variable.shape.as_list(), variable.dtype.base_dtype.name


def _open(path: str):
    """(reader, {name: (shape, dtype)}) of a checkpoint."""
    if not gfile.exists(path + ".index"):
        raise UserError(f"no checkpoint at {path!r}: {path}.index does not exist.")
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(path)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except _UNREADABLE as error:
        raise _damaged(path, ".index", error) from error
    names = [name for name in shapes if name not in _BOOKKEEPING]
    return reader, {name: (list(shapes[name]), dtypes[name].base_dtype.name) for name in names}


def _damaged(path: str, suffix: str, error: Exception) -> UserError:
    directory, name = os.path.split(path)
    files = [n for n in _names_in(directory or ".") if n.startswith(name + suffix)]
    file = os.path.join(directory, files[0]) if files else f"{path}{suffix}*"
    reason = (getattr(error, "message", None) or str(error)).splitlines()[0].rstrip(".")
    return UserError(
        f"checkpoint file {file} is {'damaged' if files else 'missing'}: {reason}. "
        f"Remove {name}.* to use the checkpoint before it, if there is one."
    )


def _part_of(key: str) -> str:
    """The part a variable belongs to; a slot variable belongs to its optimiser."""
    return key.split(_SLOT)[-1].split("/")[0]


def _refuse_misfits(path, report: RestoreReport, ignore: set[str], live: dict, saved: dict) -> None:
    """Raises UserError if anything outside the ignored parts does not fit."""

    def describe(key):
        sides = ["checkpoint {} {}".format(*saved[key])] if key in saved else []
        if key in live:
            sides.append("model {} {} ({})".format(*_kind_of(live[key]), live[key].name))
        return f"  {key.removesuffix(_VALUE)}: {', '.join(sides)}"

    lines = []
    for title, keys in (
        ("of another shape or dtype", report.mismatched),
        ("in the model but not in the checkpoint", report.missing),
        ("in the checkpoint but not in the model", report.unexpected),
    ):
        keys = [key for key in keys if _part_of(key) not in ignore]
        lines += [f"{len(keys)} {title}:"] if keys else []
        lines += [describe(key) for key in keys[:_LISTED]]
        lines += [f"  and {len(keys) - _LISTED} more"] if len(keys) > _LISTED else []
    if lines:
        head = f"checkpoint {path} does not fit; nothing was changed. Variables"
        raise UserError("\n".join([head, *lines]))
