"""Strict restore: either everything fits, or nothing changes and the error lists what does not."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf
from absl import logging

from tf_simclr.checkpoints.files import steps_in
from tf_simclr.checkpoints.reading import GRAPH, UNREADABLE, VALUE, Damaged, opened, unreadable
from tf_simclr.errors import UserError
from tf_simclr.stack import keras

# A legacy Keras optimiser stores its variables as slots of those it trains, for example
# "encoder/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m". We use none, but earlier
# versions of tf_simclr trained with the LAMB of tensorflow-addons, so their checkpoints have some.
_SLOT = "/.OPTIMIZER_SLOT/"
_LEGACY_LAMB = (
    "An earlier version of tf_simclr began this run, with the LAMB of tensorflow-addons, whose "
    "moments cannot be restored. Finish the run with that version, or pass --allow_changes to keep "
    "the weights and restart LAMB: with zero moments, and the learning rate from the first step "
    "of its schedule."
)
_LISTED = 20  # Variables of each kind that an error names.


@dataclasses.dataclass(frozen=True)
class RestoreReport:
    """What happened to each variable; names as in `variable_paths`.

    If `restore` did not raise, all but the first hold variables of ignored parts only.

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

    def warn(self) -> None:
        """Logs what was not restored, if anything."""
        left = (*self.missing, *self.mismatched)
        if left or self.unexpected:
            logging.warning(
                "Restored %d variables; %d are left as initialised: %s. %d in the checkpoint are "
                "not used: %s.",
                len(self.matched),
                *(len(left), _few(left)),
                *(len(self.unexpected), _few(self.unexpected)),
            )


def restore(path, *, ignore: Iterable[str] = (), **parts) -> RestoreReport:
    """Restores parts from a checkpoint if everything in it fits, else changes nothing.

    The whole checkpoint is read into host memory before the first variable changes.

    Args:
      path: the checkpoint's path without ".index".
      ignore: names of parts, there or here, that need not fit; what fits is restored.
      **parts: as given to `RunCheckpoints`, or some of them.

    Returns:
      What was restored and what was not.

    Raises:
      UserError: variables are missing, unexpected or of another shape, all listed; or a file of
        the checkpoint is missing or damaged, named.
    """
    path = os.fspath(path)
    with opened(path) as (reader, saved):
        build_optimizers(parts)
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
            if reader.has_tensor(GRAPH):
                reader.get_tensor(GRAPH)  # Unused, but read to find a file cut short in it.
            values = {key: reader.get_tensor(key) for key in report.matched}
        except UNREADABLE as error:
            raise unreadable(path, ".data-", error) from error
    for key, value in values.items():
        live[key].assign(value)
    logging.info("Restored %d variables from %s.", len(values), path)
    return report


def newest_whole(directory: str, read: Callable[[str], Any]) -> tuple[int | None, Any]:
    """Reads the newest checkpoint of a folder that is not damaged.

    Args:
      directory: the folder.
      read: maps a checkpoint's path to a result; raises `Damaged` if it cannot be read.

    Returns:
      Its step and what `read` returned; (None, None) if there is no checkpoint.

    Raises:
      UserError: all are damaged; or whatever `read` raises.
    """
    damaged = []
    for step in reversed(steps_in(directory)):
        try:
            found = read(os.path.join(directory, f"ckpt-{step}"))
        except Damaged as error:
            damaged.append(error)
            continue
        for error in damaged:
            logging.warning("Going back to the checkpoint of step %d: %s", step, error)
        return step, found
    if damaged:
        raise UserError(
            f"no checkpoint in {directory} can be read. The newest: {damaged[0]} Restore "
            "the files, or remove them all to start over."
        )
    return None, None


def parts_in(path: str) -> set[str]:
    """Names of the parts that a checkpoint holds."""
    with opened(path) as (_, saved):
        return {_part_of(key) for key in saved}


def variable_paths(root: tf.train.Checkpoint) -> dict[str, tf.Variable]:
    """Every variable below `root`, by the name under which `root.write` stores it.

    The name is the first path in breadth-first order.
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
    return {paths[id(node)] + VALUE: node for node in nodes if isinstance(node, tf.Variable)}


def build_optimizers(parts: dict) -> None:
    """Makes the variables of optimisers that have none; the rule is in `RunCheckpoints`."""
    trained = []
    for part in parts.values():
        if isinstance(part, keras.optimizers.Optimizer):
            with strategy_of(trained).scope():
                part.build(trained)
        else:
            trained = trained + list(getattr(part, "trainable_variables", ()))
            continue
        trained = []


def strategy_of(variables) -> tf.distribute.Strategy:
    """The strategy the variables were made in, also outside its scope."""
    for variable in variables:
        if hasattr(variable, "distribute_strategy"):
            return variable.distribute_strategy
    return tf.distribute.get_strategy()


def _few(keys) -> str:
    names = [key.removesuffix(VALUE) for key in keys[:_LISTED]]
    return ", ".join(names + ["..."] * (len(keys) > _LISTED)) or "none"


def _kind_of(variable) -> tuple[list[int], str]:
    return variable.shape.as_list(), variable.dtype.base_dtype.name


def _part_of(key: str) -> str:
    """The part a variable belongs to; a slot belongs to its optimiser, not to its variable."""
    return key.split(_SLOT)[-1].split("/")[0]


def _refuse_misfits(path, report: RestoreReport, ignore: set[str], live: dict, saved: dict) -> None:
    """Raises UserError if anything outside the ignored parts does not fit."""

    def describe(key):
        sides = ["checkpoint {} {}".format(*saved[key])] if key in saved else []
        if key in live:
            sides.append("model {} {} ({})".format(*_kind_of(live[key]), live[key].name))
        return f"  {key.removesuffix(VALUE)}: {', '.join(sides)}"

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
        by_addons = any(_SLOT in key for key in report.unexpected if _part_of(key) not in ignore)
        lines += [_LEGACY_LAMB] if by_addons else []
        raise UserError("\n".join([head, *lines]))
