"""What each --mode is, one row each. Standard library only."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mode:
    """One value of --mode.

    Attributes:
      help: what it does, for --help.
      trains: whether it trains, on every host; the other modes run on the first host only.
      resumes: the mode whose run in --workdir it continues: settings that the command line does
        not give are that run's. "": none.
      inherits: groups of settings that it takes over from the run or the encoder that it starts
        from, --init_from or else --workdir.
    """

    help: str
    trains: bool = False
    resumes: str = ""
    inherits: tuple[str, ...] = ()


_ALL_BUT_RUN = ("Data", "Two views", "Model", "Training", "Machine", "Evaluation")

MODES = {
    "pretrain": Mode(
        "Train an encoder on images without labels, or resume such a run.",
        trains=True,
        resumes="pretrain",
    ),
    "knn_eval": Mode(
        "Evaluate an encoder by a vote of nearest neighbours.",
        inherits=_ALL_BUT_RUN,
    ),
    "linear_eval": Mode(
        "Evaluate an encoder by linear classifiers, from few and from all labels.",
        inherits=_ALL_BUT_RUN,
    ),
    "finetune": Mode(
        "Train an encoder and a classifier on images with labels.",
        trains=True,
        resumes="finetune",
        inherits=("Data", "Model"),
    ),
    "export": Mode(
        "Write an encoder as a SavedModel and a .keras file.",
        inherits=_ALL_BUT_RUN,
    ),
    "doctor": Mode(
        "Report what --mode=pretrain would find and need; trains nothing.",
        resumes="pretrain",
    ),
}
