"""The binary's flags: one for each field of Config, which holds their defaults and meaning."""

from __future__ import annotations

import dataclasses
import os

from absl import flags

from tf_simclr.config import Config, is_folder_path
from tf_simclr.errors import UserError
from tf_simclr.flagfile import from_flagfile

# What a mode takes over from the run it starts from, unless told otherwise.
_ALL_BUT_RUN = ("Data", "Two views", "Model", "Training", "Machine", "Evaluation")
_INHERITED_GROUPS = {
    "knn_eval": _ALL_BUT_RUN,
    "linear_eval": _ALL_BUT_RUN,
    "export": _ALL_BUT_RUN,
    "finetune": ("Data", "Model"),
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines every flag, by the type of its field."""
    define = {
        "str": flags.DEFINE_string,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "bool": flags.DEFINE_bool,
    }
    for field in dataclasses.fields(Config):
        help = field.metadata["help"]
        if field.metadata["choices"]:
            help += " One of: " + ", ".join(field.metadata["choices"]) + "."
        define[field.type](
            field.name, field.default, help, flag_values=flag_values, module_name="tf_simclr"
        )


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line, on top of what an earlier run left.

    The modes that judge a run (knn_eval, linear_eval, export) start from its settings, and
    fine-tuning from its data and model settings, so that `--mode=linear_eval --workdir=DIR` needs
    nothing else; the command line overrides them.

    Args:
      argv: the program's name and its arguments.
      flag_values: where the flags are defined.

    Returns:
      What is left: the name and the arguments that are no flags.

    Raises:
      flags.Error: a flag is unknown, or its value is not of its type; or a flagfile is unreadable.
      UserError: what the earlier run left is damaged.
    """
    left = _parsed(argv, flag_values)
    inherited = _inherited(flag_values)
    if inherited:
        flag_values.unparse_flags()
        left = _parsed([argv[0], *inherited, *argv[1:]], flag_values)
    return left


def _parsed(argv, flag_values):
    try:
        return flag_values(argv)
    except (
        ValueError,
        RecursionError,
        OSError,
    ) as error:  # A flagfile that is no text, or endless.
        raise flags.Error(f"the flags cannot be read: {error}") from error


def config_from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The flags as a checked Config; the only way from flags into the package."""
    return Config(
        **{field.name: flag_values[field.name].value for field in dataclasses.fields(Config)}
    )


def flag_table() -> str:
    """Every flag as a Markdown table; README holds it, and a test holds README to it."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for field in dataclasses.fields(Config):
        default = f"`{field.default}`" if field.default != "" else ""
        choices = field.metadata["choices"]
        help = field.metadata["help"] + (f" One of {', '.join(choices)}." if choices else "")
        rows.append(f"| `--{field.name}` | {default} | {help} |")
    return "\n".join(rows) + "\n"


def _inherited(flag_values: flags.FlagValues) -> list[str]:
    """Settings of the run that --init_from or --workdir names, as arguments."""
    groups = _INHERITED_GROUPS.get(flag_values.mode)
    if not groups:
        return []
    settings = from_flagfile(_text(flag_values.init_from or flag_values.workdir))
    if flag_values["dataset"].present:  # Another data set: these belong to the earlier one.
        settings.pop("label", None)
        if is_folder_path(flag_values.dataset):
            settings.pop("data_dir", None)
    group = {field.name: field.metadata["group"] for field in dataclasses.fields(Config)}
    return [f"--{name}={value}" for name, value in settings.items() if group[name] in groups]


def _text(workdir: str) -> str:
    """What the flags.resolved of a run says; "" where there is none."""
    path = os.path.join(workdir, "flags.resolved")
    try:
        if "://" in path:
            import tensorflow as tf  # Slow, and needed for remote runs only.

            with tf.io.gfile.GFile(path, "r") as file:
                return file.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except Exception as error:  # No text, no permission; remote storage can fail in any way.
        if type(error).__name__ == "NotFoundError":
            return ""
        raise UserError(f"{path} cannot be read: {error}") from error
