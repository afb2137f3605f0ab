"""Which settings fit together, for `config.py`."""

from __future__ import annotations

import dataclasses
import os

from tf_simclr.errors import UserError
from tf_simclr.modes import MODES
from tf_simclr.paths import is_folder_path

# The values of loss, and the settings that each takes.
LOSS_SETTINGS = {
    "nt_xent": ("temperature",),
    "decoupled": ("temperature",),
    "nt_logistic": ("temperature",),
    "triplet": ("margin",),
    "supervised": ("temperature",),
}


def resolved_folder(config, dataset: str, data_dir: str) -> tuple[str, str]:
    """What the settings of these names are: a path given as data set is a folder's data directory.

    Raises:
      UserError: the path contradicts `data_dir`, or a folder has none.
    """
    name, folder = getattr(config, dataset), getattr(config, data_dir)
    if is_folder_path(name):
        path = os.path.expanduser(name).rstrip("/") or "/"
        if folder not in ("", name, path):
            raise UserError(
                f"--{dataset}={name} is the path of a folder, and --{data_dir}={folder} names "
                f"another: leave out --{data_dir}."
            )
        return "folder", path
    if name == "folder" and not folder:
        raise UserError(f"--{dataset}=folder needs --{data_dir}, the folder with the images.")
    return name, folder


def check_together(config) -> None:
    """Raises UserError, which names the flags, where settings of a Config contradict each other."""
    for rule in _RULES:
        rule(config)


def _evaluation_folder(config) -> None:
    if config.eval_data_dir and not config.eval_dataset:
        raise UserError(
            f"--eval_data_dir={config.eval_data_dir} is where --eval_dataset lies, which is not "
            "given: pass --eval_dataset."
        )


def _mode(config) -> None:
    mode = MODES[config.mode]
    for name, what in mode.requires.items():
        if not getattr(config, name):
            raise UserError(f"--mode={config.mode} needs --{name}, {what}.")
    for names, what in mode.requires_one_of.items():
        if not any(getattr(config, name) for name in names):
            flags = " or ".join(f"--{name}" for name in names)
            raise UserError(f"--mode={config.mode} needs {flags}, {what}.")
    for name, value in mode.only.items():
        now = getattr(config, name)
        if now != value:
            shown = f"--{name}={value} only" if value != "" else f"no --{name}"
            raise UserError(f"--mode={config.mode} takes {shown}; received {now!r}.")


def _loss(config) -> None:
    taken = LOSS_SETTINGS[config.loss]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in sorted({name for names in LOSS_SETTINGS.values() for name in names}):
        value, default = getattr(config, name), defaults[name]
        if name not in taken and value != default:
            raise UserError(
                f"--loss={config.loss} takes --{' and --'.join(taken)}, and no {name}; received "
                f"--{name}={value}. Leave it out, or pass its default, {default}."
            )


def _warmup(config) -> None:
    if -1 < config.warmup_epochs < 0:
        raise UserError(
            "--warmup_epochs must be at least 0, or -1 for 10 but at most a tenth of the run; "
            f"received {config.warmup_epochs!r}."
        )


def _reduced_images(config) -> None:
    # Includes the doctor, which "resumes" pretraining to check what that would do.
    makes_views = bool(MODES[config.mode].resumes)
    if makes_views and config.cache_side and (config.cache == "off" or config.data_service):
        raise UserError(
            f"--cache_side={config.cache_side} reduces what --cache keeps in memory, which is "
            "nothing with --cache=off or --data_service: pass --cache_side=0."
        )


_RULES = (_evaluation_folder, _mode, _loss, _warmup, _reduced_images)
