"""The binary's flags: one for each field of Config, with its default and help."""

from __future__ import annotations

import os
from typing import Any

from absl import flags

from tf_simclr.config import FIELDS, IMAGENET, Config
from tf_simclr.errors import UserError
from tf_simclr.inherited import settings_of_encoder, settings_of_run
from tf_simclr.modes import MODES
from tf_simclr.paths import at_home, is_folder_path
from tf_simclr.recipes import with_recipes
from tf_simclr.settings import is_path, meaning

# A recorded number of steps is not inherited if the command line gives the epochs.
_IN_EPOCHS = {
    "train_steps": "train_epochs",
    "train_minutes": "train_epochs",
    "checkpoint_steps": "checkpoint_epochs",
}
_ASKED = ("dataset", "image_size")  # Their defaults may not fit the encoder's images.

_DATA_SETS = (("dataset", "data_dir", "label"), ("eval_dataset", "eval_data_dir", ""))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for every field of Config, by the field's type."""
    define = {
        "str": flags.DEFINE_string,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "bool": flags.DEFINE_bool,
    }
    placed = {"flag_values": flag_values, "module_name": "tf_simclr"}
    for name, field in FIELDS.items():
        define[field.type](name, field.default, meaning(field), **placed)


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line, with settings inherited from an earlier run.

    A training mode inherits the settings of its run in --workdir, so that
    `--mode=pretrain --workdir=DIR` resumes it. The modes that use a finished run (knn_eval,
    linear_eval, export) inherit the settings of that run or encoder; fine-tuning inherits only data
    and model settings, and has its own defaults for others. The command line overrides all of them.

    Args:
      argv: the program's name and arguments.
      flag_values: where the flags are defined.

    Returns:
      The program's name and the arguments that are not flags.

    Raises:
      flags.Error: a flag is unknown, or its value has the wrong type; or a flagfile is unreadable.
      UserError: the files of the earlier run are damaged; or neither the encoder nor the command
        line says what images the encoder was trained on; or a setting is given that the mode does
        not use; or --flagfile is neither a file nor a recipe.
    """
    argv = with_recipes(argv)
    left = _parsed(argv, flag_values)
    inherited = _inherited(flag_values)
    if inherited:
        flag_values.unparse_flags()
        left = _parsed([argv[0], *inherited, *argv[1:]], flag_values)
    return left


def _parsed(argv, flag_values):
    """Parses the arguments and expands "~" in all paths."""
    try:
        left = flag_values(argv)
    except (
        ValueError,
        RecursionError,
        OSError,
    ) as error:  # A flagfile that is not text, or endless.
        raise flags.Error(f"the flags cannot be read: {error}") from error
    for name, field in FIELDS.items():
        if field.metadata["path"]:
            flag_values[name].value = at_home(flag_values[name].value, f"--{name}")
    return left


def config_from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The flags as a checked Config; the package reads flags nowhere else."""
    config = Config(**{name: flag_values[name].value for name in FIELDS})
    return config.as_given(name for name in FIELDS if _is_given(flag_values, name))


def flag_table() -> str:
    """Every flag as a Markdown table; a test checks that README contains it."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for name, field in FIELDS.items():
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append(f"| `--{name}` | {default} | {meaning(field)} |")
    return "\n".join(rows) + "\n"


def _inherited(flag_values: flags.FlagValues) -> list[str]:
    """The inherited settings as arguments, except those given on the command line."""
    if flag_values.mode not in MODES:  # Config reports this.
        return []
    _check_schemes(flag_values)
    origin, settings = flag_values.workdir, _settings_resumed(flag_values)
    resumed = bool(settings)
    if not resumed:
        origin, settings = _settings_before(flag_values)
        settings = {**MODES[flag_values.mode].defaults, **settings}
    if _is_given(flag_values, "dataset") and not resumed:
        settings.pop("eval_dataset", None)  # --dataset is what to evaluate on.
        settings.pop("eval_data_dir", None)
    for dataset, data_dir, label in _DATA_SETS:
        if _is_given(flag_values, dataset) and flag_values[dataset].value != settings.get(dataset):
            settings.pop(label, None)  # It belongs to the earlier data set.
            if any(map(_is_folder, (settings.get(dataset, ""), flag_values[dataset].value))):
                settings.pop(data_dir, None)  # So does a folder. TFDS sets share one data_dir.
    _refuse_unused(flag_values, settings)
    in_epochs = _IN_EPOCHS
    if _is_given(flag_values, "train_minutes"):
        # The steps that the same time has led to are kept, whatever else is given.
        same = flag_values.train_minutes == settings.get("train_minutes", 0.0) != 0.0
        in_epochs = {**_IN_EPOCHS, "train_steps": None if same else "train_minutes"}
    inherited = {
        name: value
        for name, value in settings.items()
        if not _is_given(flag_values, name) and not _is_given(flag_values, in_epochs.get(name))
    }
    # A resumed run restores its encoder from its checkpoints, not from --init_from.
    _check_places({**inherited, "init_from": ""} if resumed else inherited, origin)
    return [f"--{name}={value}" for name, value in inherited.items()]


def _check_schemes(flag_values: flags.FlagValues) -> None:
    """Raises UserError for a scheme that TensorFlow cannot open, before settings are read there."""
    for name in ("workdir", "init_from"):
        if "://" in flag_values[name].value:
            from tf_simclr.storage import require_known_scheme  # Imports TensorFlow: slow.

            require_known_scheme(flag_values[name].value, f"--{name}")


def _is_folder(dataset: str) -> bool:
    return dataset == "folder" or is_folder_path(dataset)


def _settings_before(flag_values: flags.FlagValues) -> tuple[str, dict[str, Any]]:
    """(origin, {name: value}) of the settings that the mode inherits; see `modes.Mode`."""
    mode = MODES[flag_values.mode]
    encoder = flag_values.init_from or ("" if mode.trains else flag_values.workdir)
    if not mode.inherits or not is_path(FIELDS["init_from"], encoder):
        return "", {}
    settings = {
        name: value
        for name, value in settings_of_encoder(encoder).items()
        if FIELDS[name].metadata["group"] in mode.inherits and not FIELDS[name].metadata["once"]
    }
    _ask(flag_values, settings, encoder)
    return encoder, settings


def _settings_resumed(flag_values: flags.FlagValues) -> dict[str, Any]:
    """{name: value} of the run in --workdir if the mode would resume it, else {}."""
    mode, workdir = MODES[flag_values.mode], flag_values.workdir
    run = settings_of_run(workdir) if mode.resumes and workdir else {}
    if run.get("mode") != mode.resumes:
        return {}
    return {name: value for name, value in run.items() if not FIELDS[name].metadata["once"]}


def _refuse_unused(flag_values: flags.FlagValues, settings: dict[str, Any]) -> None:
    """Raises UserError for a setting without effect, unless it repeats the recorded value."""
    # ImageNet weights come without settings: --encoder says which.
    used = ("encoder",) if flag_values.init_from == IMAGENET else ()
    for name in MODES[flag_values.mode].unused:
        value = flag_values[name].value
        given = name not in used and _is_given(flag_values, name)
        if given and value != settings.get(name, FIELDS[name].default):
            raise UserError(
                f"--mode={flag_values.mode} does not use --{name}; received {value!r}. Leave it "
                "out."
            )


def _is_given(flag_values: flags.FlagValues, name: str | None) -> bool:
    return name is not None and bool(flag_values[name].present)


def _ask(flag_values: flags.FlagValues, settings: dict[str, Any], encoder: str) -> None:
    """Raises UserError if nothing says what images an encoder was trained on."""
    known = [name for name in _ASKED if name in settings or _is_given(flag_values, name)]
    there = "://" in encoder or os.path.exists(encoder) or os.path.exists(encoder + ".index")
    if there and len(known) < len(_ASKED):
        missing = " and ".join(f"--{name}" for name in _ASKED if name not in known)
        raise UserError(
            f"{encoder} does not say on what images its encoder was trained: it comes without "
            f"flags.resolved, manifest.json or a card.json with settings. Pass {missing}, and "
            "--data_dir where the data set needs one."
        )


def _check_places(settings: dict[str, Any], origin: str) -> None:
    """Raises UserError for a recorded path that is relative to another current directory."""
    for name, value in settings.items():
        if not is_path(FIELDS[name], value) or "://" in value:
            continue
        there = os.path.exists(value) or os.path.exists(value + ".index")
        if not os.path.isabs(value) and not there:
            raise UserError(
                f"{origin} was made with --{name}={value}, relative to another folder than "
                f"{os.getcwd()}. Pass --{name}."
            )
