"""The checkpoints of a run: each written whole or not at all, the newest kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile

import tensorflow as tf

from tf_simclr.checkpoints.files import MANIFEST, names_in, step_of, steps_in
from tf_simclr.checkpoints.restoring import (
    VALUE,
    build_optimizers,
    newest_whole,
    restore,
    strategy_of,
    variable_paths,
)
from tf_simclr.errors import UserError

gfile = tf.io.gfile


class RunCheckpoints:
    """The checkpoints of one run in one folder, the newest `keep` of them.

    A reader, or a run killed at any moment, finds only whole checkpoints: one exists once its index
    file does, which is written last; older ones are removed only then.

    With several hosts every host must call `save`, since reading a variable may need all of them;
    only the chief leaves files.
    """

    def __init__(self, directory, *, keep: int = 5, manifest: dict | None = None, **parts):
        """Changes nothing on disk.

        Args:
          directory: the folder, local or any scheme `tf.io.gfile` supports; made when needed.
          keep: how many checkpoints to keep, >= 1.
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
        build_optimizers(parts)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; None if there is none."""
        return max(steps_in(self.directory), default=None)

    def newest(self, before: int | None = None) -> str:
        """The path of the newest checkpoint, or of the newest up to a step; "none" without one."""
        steps = [step for step in steps_in(self.directory) if before is None or step <= before]
        return os.path.join(self.directory, f"ckpt-{max(steps)}") if steps else "none"

    def save(self, step: int) -> None:
        """Writes the checkpoint of `step`, then removes all but the newest `keep`.

        Raises:
          UserError: it could not be written, or a variable is NaN or infinite; the older ones are
            untouched.
        """
        checkpoint = tf.train.Checkpoint(**self.parts)
        variables = variable_paths(checkpoint)
        self._refuse_non_finite(step, variables)
        strategy = strategy_of(variables.values())
        if not strategy.extended.should_checkpoint:
            with tempfile.TemporaryDirectory() as scratch:
                checkpoint.write(os.path.join(scratch, "ckpt"))
            return
        try:
            gfile.makedirs(self.directory)
            self._remove(_is_temporary)  # Left by a run that was killed while saving.
            # After writing, TensorFlow looks for the files by a pattern, to measure their size, and
            # before Python 3.11 "[z-a]" in the name of a folder is an error there.
            with contextlib.suppress(re.error):
                checkpoint.write(os.path.join(self.directory, f"tmp-{step}"))
            self._publish(step)
        except tf.errors.OpError as error:
            with contextlib.suppress(tf.errors.OpError):  # This may fail likewise.
                self._remove(_is_temporary)
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.directory}: "
                f"{error.message} The older ones are whole; make room or choose another folder."
            ) from error
        others = [other for other in steps_in(self.directory) if other != step]
        kept = {step, *others[max(len(others) - self.keep + 1, 0) :]}
        self._remove(lambda name: step_of(name) not in kept | {None})

    def restore_latest(self, allow_misfits: bool = False) -> int | None:
        """Restores the newest checkpoint that is whole into the parts, all of it or nothing.

        Damaged ones are skipped with a warning, and stay where they are.

        Args:
          allow_misfits: restore what fits and leave the rest as it is, with a warning.

        Returns:
          Its step; None if there is no checkpoint.

        Raises:
          UserError: as `restore`; or every checkpoint is damaged.
        """
        ignore = self.parts if allow_misfits else ()
        step, report = newest_whole(
            self.directory, lambda path: restore(path, ignore=ignore, **self.parts)
        )
        if step is not None and allow_misfits:
            report.warn()
        return step

    def _refuse_non_finite(self, step: int, variables: dict[str, tf.Variable]) -> None:
        for name, variable in variables.items():
            if variable.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(variable)):
                raise UserError(
                    f"{name.removesuffix(VALUE)} is NaN or infinite after step {step}, so it is "
                    f"not saved; the last checkpoint before it is kept: {self.newest()}. Try a "
                    "lower --learning_rate, a longer --warmup_epochs, or --precision=float32."
                )

    def _publish(self, step: int) -> None:
        """Gives the files of a checkpoint their names, the index last."""
        index, data = f"ckpt-{step}.index", f"ckpt-{step}.data-"
        self._remove(lambda name: name == index)  # It must not point to new data.
        self._remove(lambda name: name.startswith(data))
        for name in names_in(self.directory):
            if name.startswith(f"tmp-{step}.data-"):
                self._rename(name, name.replace(f"tmp-{step}.data-", data))
        with gfile.GFile(os.path.join(self.directory, "tmp-" + MANIFEST), "w") as file:
            file.write(self.manifest)
        self._rename("tmp-" + MANIFEST, MANIFEST)
        self._rename(f"tmp-{step}.index", index)

    def _rename(self, name: str, to: str) -> None:
        paths = [os.path.join(self.directory, n) for n in (name, to)]
        gfile.rename(*paths, overwrite=True)

    def _remove(self, which) -> None:
        names = [name for name in names_in(self.directory) if which(name)]
        for name in sorted(names, reverse=True):  # ".index" before ".data".
            path = os.path.join(self.directory, name)
            gfile.rmtree(path) if gfile.isdir(path) else gfile.remove(path)


def _is_temporary(name: str) -> bool:
    return name.startswith("tmp-")
