"""The binary's flags: one for each field of Config, which holds their defaults and meaning."""

from __future__ import annotations

import dataclasses
import os

from absl import flags

from tf_simclr.config import Config, from_flagfile

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
    """
    left = flag_values(argv)
    inherited = _inherited(flag_values)
    if inherited:
        flag_values.unparse_flags()
        left = flag_values([argv[0], *inherited, *argv[1:]])
    return left


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
    saved = os.path.join(flag_values.init_from or flag_values.workdir, "flags.resolved")
    if not groups or not os.path.isfile(saved):
        return []
    with open(saved) as file:
        settings = from_flagfile(file.read())
    group = {field.name: field.metadata["group"] for field in dataclasses.fields(Config)}
    return [f"--{name}={value}" for name, value in settings.items() if group[name] in groups]
