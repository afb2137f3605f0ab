"""The binary's flags: one for each field of Config, which holds their defaults and meaning."""

from __future__ import annotations

import os
from typing import Any

from absl import flags

from tf_simclr.config import FIELDS, Config
from tf_simclr.errors import UserError
from tf_simclr.inherited import settings_of_encoder, settings_of_run
from tf_simclr.modes import MODES
from tf_simclr.paths import at_home, is_folder_path
from tf_simclr.settings import meaning

# A number of steps that a run has recorded gives way to epochs on the command line.
_IN_EPOCHS = {"train_steps": "train_epochs", "checkpoint_steps": "checkpoint_epochs"}
_ASKED = ("dataset", "image_size")  # Without them an encoder is judged on images of another kind.

_DATA_SETS = (("dataset", "data_dir", "label"), ("eval_dataset", "eval_data_dir", ""))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines every flag, by the type of its field."""
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
    """Parses the command line, on top of what an earlier run left.

    A training mode takes over what its run in --workdir has recorded, so that
    `--mode=pretrain --workdir=DIR` resumes it. The modes that judge a run (knn_eval, linear_eval,
    export) start from the settings of the run or the encoder that they judge, and fine-tuning from
    its data and model settings, on top of the mode's own defaults. The command line overrides all.

    Args:
      argv: the program's name and its arguments.
      flag_values: where the flags are defined.

    Returns:
      What is left: the name and the arguments that are no flags.

    Raises:
      flags.Error: a flag is unknown, or its value is not of its type; or a flagfile is unreadable.
      UserError: what the earlier run left is damaged; or an encoder comes without the settings that
        its images need, and the command line does not give them either; or a setting is given that
        the mode does not use.
    """
    left = _parsed(argv, flag_values)
    inherited = _inherited(flag_values)
    if inherited:
        flag_values.unparse_flags()
        left = _parsed([argv[0], *inherited, *argv[1:]], flag_values)
    return left


def _parsed(argv, flag_values):
    """Parses; then "~" in a path is the home folder, for all that reads the flags."""
    try:
        left = flag_values(argv)
    except (
        ValueError,
        RecursionError,
        OSError,
    ) as error:  # A flagfile that is no text, or endless.
        raise flags.Error(f"the flags cannot be read: {error}") from error
    for name, field in FIELDS.items():
        if field.metadata["path"]:
            flag_values[name].value = at_home(flag_values[name].value, f"--{name}")
    return left


def config_from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The flags as a checked Config; the only way from flags into the package."""
    return Config(**{name: flag_values[name].value for name in FIELDS})


def flag_table() -> str:
    """Every flag as a Markdown table; README holds it, and a test holds README to it."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for name, field in FIELDS.items():
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append(f"| `--{name}` | {default} | {meaning(field)} |")
    return "\n".join(rows) + "\n"


def _inherited(flag_values: flags.FlagValues) -> list[str]:
    """The settings that are taken over, without those on the command line, as arguments."""
    if flag_values.mode not in MODES:  # Config says so.
        return []
    origin, settings = flag_values.workdir, _settings_resumed(flag_values)
    resumed = bool(settings)
    if not resumed:
        origin, settings = _settings_before(flag_values)
        settings = {**MODES[flag_values.mode].defaults, **settings}
    if _is_given(flag_values, "dataset") and not resumed:
        settings.pop("eval_dataset", None)  # The user names what to evaluate on.
        settings.pop("eval_data_dir", None)
    for dataset, data_dir, label in _DATA_SETS:
        if _is_given(flag_values, dataset) and flag_values[dataset].value != settings.get(dataset):
            settings.pop(label, None)  # It belongs to the earlier data set,
            if any(map(_is_folder, (settings.get(dataset, ""), flag_values[dataset].value))):
                settings.pop(data_dir, None)  # as the folder does; TFDS sets lie in one data_dir.
    _refuse_unused(flag_values, settings)
    inherited = {
        name: value
        for name, value in settings.items()
        if not _is_given(flag_values, name) and not _is_given(flag_values, _IN_EPOCHS.get(name))
    }
    # A resumed run has its encoder in its checkpoints.
    _check_places({**inherited, "init_from": ""} if resumed else inherited, origin)
    return [f"--{name}={value}" for name, value in inherited.items()]


def _is_folder(dataset: str) -> bool:
    return dataset == "folder" or is_folder_path(dataset)


def _settings_before(flag_values: flags.FlagValues) -> tuple[str, dict[str, Any]]:
    """(where they come from, {name: value}) of what the mode takes over; see `modes.Mode`."""
    mode = MODES[flag_values.mode]
    encoder = flag_values.init_from or ("" if mode.trains else flag_values.workdir)
    if not mode.inherits or not encoder:
        return "", {}
    settings = {
        name: value
        for name, value in settings_of_encoder(encoder).items()
        if FIELDS[name].metadata["group"] in mode.inherits and not FIELDS[name].metadata["once"]
    }
    _ask(flag_values, settings, encoder)
    return encoder, settings


def _settings_resumed(flag_values: flags.FlagValues) -> dict[str, Any]:
    """{name: value} of the run in --workdir, where the mode would resume it; else {}."""
    mode, workdir = MODES[flag_values.mode], flag_values.workdir
    run = settings_of_run(workdir) if mode.resumes and workdir else {}
    if run.get("mode") != mode.resumes:
        return {}
    return {name: value for name, value in run.items() if not FIELDS[name].metadata["once"]}


def _refuse_unused(flag_values: flags.FlagValues, settings: dict[str, Any]) -> None:
    """Raises UserError for a setting without effect; a recorded value may be given again."""
    for name in MODES[flag_values.mode].unused:
        value = flag_values[name].value
        if _is_given(flag_values, name) and value != settings.get(name, FIELDS[name].default):
            raise UserError(
                f"--mode={flag_values.mode} does not use --{name}; received {value!r}. Leave it "
                "out."
            )


def _is_given(flag_values: flags.FlagValues, name: str | None) -> bool:
    return name is not None and bool(flag_values[name].present)


def _ask(flag_values: flags.FlagValues, settings: dict[str, Any], encoder: str) -> None:
    """Raises UserError where nothing says what images an encoder is to be judged on."""
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
    """Raises UserError for a recorded path that is relative to a folder we are not in."""
    for name, value in settings.items():
        if not FIELDS[name].metadata["path"] or not value or "://" in value:
            continue
        there = os.path.exists(value) or os.path.exists(value + ".index")
        if not os.path.isabs(value) and not there:
            raise UserError(
                f"{origin} was made with --{name}={value}, relative to another folder than "
                f"{os.getcwd()}. Pass --{name}."
            )
