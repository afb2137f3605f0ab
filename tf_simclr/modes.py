"""The modes, one row each. Standard library only."""

from __future__ import annotations

import dataclasses
from typing import Any

_WORKDIR = {"workdir": "the folder where the run keeps what it makes"}


@dataclasses.dataclass(frozen=True)
class Mode:
    """One value of --mode.

    Attributes:
      help: what it does, for --help.
      trains: whether it trains, on every host. The other modes run on the first host only.
      locks: whether it locks the workdir against other runs.
      requires: settings that must be given, {name: meaning}.
      requires_one_of: {names of settings, of which one must be given: meaning}.
      resumes: the mode whose run in --workdir it continues, with that run's settings unless the
        command line gives others. "": none.
      inherits: groups of settings that it inherits from the run or the encoder that it starts
        from: --init_from, or else --workdir.
      defaults: settings whose default differs from that in Config, {name: value}.
      only: settings with a single allowed value, as others would have no effect, {name: value}.
      unused: settings without effect, which the command line must not change.
    """

    help: str
    trains: bool = False
    locks: bool = False
    requires: dict[str, str] = dataclasses.field(default_factory=lambda: _WORKDIR)
    requires_one_of: dict[tuple[str, ...], str] = dataclasses.field(default_factory=dict)
    resumes: str = ""
    inherits: tuple[str, ...] = ()
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    only: dict[str, Any] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()


_OneOf = dict[tuple[str, ...], str]
_ENCODER: _OneOf = {("init_from", "workdir"): "the encoder, or the run that it is in"}
_TABLE: _OneOf = {("table", "workdir"): "where the table is, or the run that it belongs to"}
_NO_PARTS = {"micro_batch_size": 0, "rematerialize": False, "data_service": ""}
_NO_PROPOSAL = {"propose": ""}
_NO_EVALUATION = {"eval_every_epochs": 0.0, "eval_max_images": 10_000}  # During training.
_ONLY_EVALUATES = {**_NO_EVALUATION, **_NO_PROPOSAL}

# The encoder that a mode starts from or evaluates decides these.
_ARCHITECTURE = ("encoder", "width_multiplier", "sk_ratio", "se_ratio", "batch_norm_decay")
_UNUSED = (*_ARCHITECTURE, "exclude_list")  # The list is for the images of pretraining.
_ALL_BUT_RUN = ("Data", "Two views", "Model", "Training", "Machine", "Evaluation")


def evaluation(help: str) -> Mode:
    """A mode that evaluates an encoder, with the settings of the encoder's run."""
    return Mode(help, inherits=_ALL_BUT_RUN, only=_ONLY_EVALUATES, unused=_UNUSED)


MODES = {
    "pretrain": Mode(
        "Train an encoder on images without labels, or resume such a run.",
        trains=True,
        locks=True,
        resumes="pretrain",
        only=_NO_PROPOSAL,
    ),
    "knn_eval": evaluation("Evaluate an encoder by a vote of nearest neighbours."),
    "linear_eval": evaluation(
        "Evaluate an encoder by linear classifiers, from few and from all labels."
    ),
    "finetune": Mode(
        "Train an encoder and a classifier on images with labels.",
        trains=True,
        locks=True,
        requires={**_WORKDIR, "init_from": "the encoder to start from, such as a run's workdir"},
        resumes="finetune",
        inherits=("Data", "Model"),
        # SGD without weight decay as in the paper, appendix B.5; the rest tuned on few images.
        defaults={
            "optimizer": "momentum",
            "learning_rate": 0.05,
            "learning_rate_scaling": "linear",
            "weight_decay": 0.0,
            "train_batch_size": 64,
            "train_epochs": 60,
            "warmup_epochs": 0.0,
        },
        only={
            **_NO_PARTS,
            **_NO_EVALUATION,
            **_NO_PROPOSAL,
            "eval_dataset": "",
            "eval_data_dir": "",
            "precision": "float32",
            "lineareval_while_pretraining": False,
            "train_minutes": 0.0,
        },
        unused=(
            *_UNUSED,
            *("color_jitter_strength", "color_jitter_probability", "grayscale_probability"),
            *("use_blur", "blur_probability", "num_proj_layers", "proj_out_dim"),
            *("loss", "temperature", "margin"),
        ),
    ),
    "export": Mode(
        "Write an encoder as a SavedModel and in other formats.",
        locks=True,
        inherits=_ALL_BUT_RUN,
        only=_ONLY_EVALUATES,
        unused=_UNUSED,
    ),
    "embed": Mode(
        "Write the vector of every image to a table, Parquet or .npy.",
        requires={},
        requires_one_of={**_ENCODER, **_TABLE},
        inherits=_ALL_BUT_RUN,
        only=_ONLY_EVALUATES,
        unused=_UNUSED,
    ),
    "search": Mode(
        "Find the nearest images in such a table, as text, JSON and HTML.",
        requires={"query": "an image, a folder of images, or a path in the table"},
        requires_one_of=_TABLE,
        only=_NO_PROPOSAL,
    ),
    "duplicates": Mode(
        "List copies, near copies, leaks and outliers of a data set.",
        requires={},
        requires_one_of={("duplicates_dir", "workdir"): "where to write what is found"},
        inherits=_ALL_BUT_RUN,
        only=_ONLY_EVALUATES,
        unused=_UNUSED,
    ),
    "doctor": Mode(
        "Report what --mode=pretrain would find and need; trains nothing.",
        requires={},
        resumes="pretrain",
    ),
}
