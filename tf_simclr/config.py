"""Every setting of a run: its name, type, default, meaning and limits, in one place.

`flag_defs.py` defines a flag for each field, so a flag's default and help are written only here.
Standard library only. Config is not passed below `tasks/`: modules there take keyword arguments.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import Any, ClassVar

from tf_simclr import config_rules
from tf_simclr.modes import MODES
from tf_simclr.paths import may_be_same_place
from tf_simclr.settings import check, group, label_counts, shard_of

IMAGENET = "imagenet"  # As init_from: Keras' ImageNet weights.
DEFAULT_LABELS = "1,5,10,all"  # The default of labels_per_class.
DEFAULT_EXPORT_FORMATS = "saved_model,keras,h5"

_run = group("Run", alters_run=False)
_data = group("Data")
_views = group("Two views")
_model = group("Model")
_train = group("Training")
_machine = group("Machine", alters_run=False, once=True)
_evaluate = group("Evaluation", alters_run=False)
_copies = group("Duplicates", alters_run=False, once=True)
_table = group("Embeddings and search", alters_run=False, once=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run, checked on construction.

    Raises:
      UserError: a value is out of range or not a choice; the message names the flag and the value.
    """

    given: ClassVar[frozenset[str]] = frozenset()  # See `as_given`. No setting, so no field.

    mode: str = _run("pretrain", "What to do.", choices=tuple(MODES), once=True)
    workdir: str = _run(
        "",
        "Folder of the run: checkpoints, logs, results, the exported encoder.",
        path=True,
        once=True,
    )
    init_from: str = _run(
        "",
        "Encoder to start from or to evaluate: a workdir, a checkpoint, an exported encoder, a "
        ".keras or .h5 file; or imagenet: Keras' ImageNet weights of --encoder. Empty: "
        "--workdir's own.",
        path=True,
        names=(IMAGENET,),
    )
    seed: int = _run(
        0,
        "Decides initial weights, order and augmentation.",
        low=0,
        high=2**32 - 2,
        alters_run=True,
    )
    log_steps: int = _run(20, "Steps between two lines of metrics.jsonl.", low=1)
    checkpoint_steps: int = _run(
        0, "Steps between checkpoints; 0: --checkpoint_epochs decides.", low=0
    )
    checkpoint_epochs: int = _run(1, "Epochs between checkpoints.", low=1)
    eval_every_epochs: float = _run(
        0.0,
        "Epochs between evaluations by nearest neighbours during pretraining, on --train_split and "
        "--eval_split, which need labels; 0: none. Training is the same with and without.",
        low=0,
    )
    eval_max_images: int = _run(
        10_000,
        "The most images of each split that such an evaluation uses, the same ones each time, "
        "chosen at random by --seed; 0: all.",
        low=0,
    )
    keep_checkpoint_max: int = _run(5, "How many checkpoints to keep.", low=1)
    export_formats: str = _run(
        DEFAULT_EXPORT_FORMATS,
        "Formats of the exported encoder, a list in place of the default: saved_model (always "
        "written), keras, h5, onnx, tflite, tflite_float16, tflite_int8, safetensors. The default "
        "leaves out what the encoder does not allow.",
    )
    max_run_time: float = _run(
        0.0,
        "Minutes after which the run saves and stops, with exit code 75; the same command resumes "
        "it. 0: no limit.",
        low=0,
        once=True,
    )
    allow_changes: bool = _run(
        False,
        "Resume the run in --workdir although settings, images or architecture differ: what "
        "fits of its checkpoint is restored.",
        once=True,
    )
    propose: str = _run(
        "",
        "The doctor writes a flagfile here: settings for this data, this machine and "
        "--train_minutes, which keep the flags that you give; and a picture of their views.",
        path=True,
        once=True,
    )

    dataset: str = _data(
        "digits",
        "digits, folder, the name of a TFDS data set, or the path of a folder of images (with a "
        "slash): short for --dataset=folder --data_dir=PATH.",
    )
    data_dir: str = _data("", "The folder of images, or TFDS's data directory.", path=True)
    train_split: str = _data("train", "Split to train on; slices such as train[:80%] work.")
    eval_split: str = _data("test", "Split to evaluate on.", alters_run=False)
    label: str = _data(
        "",
        "Feature of a TFDS data set to use as label: a class label or an integer; a/b is feature b "
        "inside a. Empty: its class label, if there is one clear choice.",
    )
    image_size: int = _data(224, "Side of the views in pixels.", low=1, high=2**14)
    channels: int = _data(0, "Image channels; 0: as the data set has (a folder: 3).", low=0)
    skip_bad_images: bool = _data(
        False, "Check a folder's files; leave out and list what cannot be decoded."
    )
    follow_links: bool = _data(
        False, "Follow symbolic links that lead out of --data_dir, the folder of images."
    )
    exclude_list: str = _data(
        "", "List of images that pretraining leaves out, as --mode=duplicates writes it.", path=True
    )
    cache: str = _data(
        "auto",
        "Keep decoded images in memory; auto: where they take at most 1 GiB.",
        choices=("auto", "on", "off"),
        alters_run=False,
    )
    cache_side: int = _data(
        0,
        "Shorter side in pixels to which larger images are reduced for training, and then kept in "
        "memory: small crops lose detail. Evaluation sees them whole. 0: they stay as they are.",
        low=0,
        high=2**14,
    )
    data_service: str = _data(
        "",
        "Dispatcher of a tf.data service that makes the views, grpc://host:port.",
        alters_run=False,
        once=True,
    )

    color_jitter_strength: float = _views(
        1.0, "Strength s of the colour jitter; 0 turns it off.", low=0.0, high=2.5
    )
    color_jitter_probability: float = _views(0.8, "How often a view is jittered.", low=0, high=1)
    grayscale_probability: float = _views(0.2, "How often a view is grey.", low=0, high=1)
    use_blur: bool = _views(True, "Whether to blur.")
    blur_probability: float = _views(0.5, "How often a view is blurred.", low=0, high=1)
    flip_probability: float = _views(0.5, "How often a view is mirrored.", low=0, high=1)
    crop_area_min: float = _views(0.08, "Least share of the image in a crop.", low=1e-3, high=1)

    encoder: str = _model(
        "resnet50", "resnet10 ... resnet200, or a backbone of keras-cv or Keras Applications."
    )
    width_multiplier: float = _model(1.0, "Width of the ResNet.", low=1 / 64, high=64)
    sk_ratio: float = _model(0.0, "Selective kernels; 0.0625 as SimCLRv2; 0: none.", low=0)
    se_ratio: float = _model(0.0, "Squeeze and excitation; 0: none.", low=0)
    batch_norm_decay: float = _model(0.9, "Decay of the moving statistics.", low=0, high=1)
    global_bn: bool = _model(True, "Batch statistics over all replicas.")
    num_proj_layers: int = _model(
        3, "Layers of the projection head; 0: none, 1: linear.", low=0, high=100
    )
    proj_out_dim: int = _model(128, "Width of the embedding z.", low=1, high=2**16)
    loss: str = _model(
        "nt_xent",
        "Contrastive loss. decoupled: NT-Xent without the positive in its sum, arXiv:2110.06848; "
        "nt_logistic, and triplet with semi-hard negatives: of SimCLR's table 2; supervised: all "
        "images of a class are positives, arXiv:2004.11362 (needs labels).",
        choices=tuple(config_rules.LOSS_SETTINGS),
    )
    temperature: float = _model(0.1, "Temperature of the loss; triplet has none.", positive=True)
    margin: float = _model(0.4, "Margin of the triplet loss, in cosines.", low=0)

    train_batch_size: int = _train(512, "Global batch, in images.", low=2)
    micro_batch_size: int = _train(
        0,
        "Images that a replica processes at a time, for batches larger than memory. The gradient "
        "stays that of the whole batch, but batch normalisation sees only these images; 0: all.",
        low=0,
    )
    rematerialize: bool = _train(
        False, "Compute the inside of every residual block twice instead of keeping it in memory."
    )
    train_epochs: int = _train(100, "Epochs to train.", low=1)
    train_steps: int = _train(0, "Steps to train; 0: --train_epochs decides.", low=0)
    train_minutes: float = _train(
        0.0,
        "Minutes that the whole command may take, export included: pretraining times some steps "
        "and chooses how many to train, so that it ends after 0.90 to 1.00 of that; recorded as "
        "--train_steps, which decides where it is not 0. 0: off.",
        low=0,
        high=1e7,
    )
    warmup_epochs: float = _train(
        -1.0, "Epochs of linear warmup; 0: none; -1: 10, but at most a tenth of the run.", low=-1
    )
    optimizer: str = _train("lars", "Optimiser.", choices=("lars", "momentum", "adamw", "lamb"))
    learning_rate: float = _train(0.3, "Base rate, before scaling with the batch.", low=0)
    learning_rate_scaling: str = _train(
        "linear",
        "Peak rate = base * batch / 256, base * sqrt(batch), or base.",
        choices=("linear", "sqrt", "none"),
    )
    momentum: float = _train(0.9, "Momentum of lars and momentum.", low=0, high=1)
    weight_decay: float = _train(1e-4, "Weight decay; kernels only.", low=0)
    skip_bad_steps: int = _train(
        0,
        "How many steps between two lines of metrics.jsonl may have a gradient that is NaN or "
        "infinite: their update is left out. 0: the run stops at the first.",
        low=0,
        alters_run=False,
    )
    on_trouble: str = _train(
        "stop",
        "What to do when three lines of metrics.jsonl in a row show that the embeddings collapse "
        "or the loss diverges.",
        choices=("stop", "warn"),
        alters_run=False,
    )
    lineareval_while_pretraining: bool = _train(
        False, "Also train a linear probe (needs labels; its gradient does not reach the encoder)."
    )
    fine_tune_after_block: int = _train(
        -1,
        "Fine-tuning trains what comes after this block group: -1 everything, 0 all but the stem, "
        "4 the classifier only.",
        low=-1,
        high=4,
    )

    strategy: str = _machine(
        "auto",
        "Where to run.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    virtual_cpus: int = _machine(
        0, "Split the CPU into this many replicas, to try one.", low=0, high=256
    )
    tpu_name: str = _machine("", "Name of the TPU; local on a TPU VM.")
    tpu_zone: str = _machine("", "Zone of the TPU.")
    gcp_project: str = _machine("", "Project of the TPU.")
    precision: str = _machine(
        "float32",
        "Arithmetic of encoder and head.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        alters_run=True,
        once=False,
    )
    jit_compile: bool = _machine(
        False, "Compile the training step with XLA.", alters_run=True, once=False
    )
    deterministic: bool = _machine(
        False,
        "Only operations that give the same bits each time on the same machine; no figure of the "
        "wait for data then.",
    )
    steps_per_execution: int = _machine(1, "Steps per call of the device's program.", low=1)

    eval_batch_size: int = _evaluate(256, "Batch of evaluation.", low=1)
    eval_dataset: str = _evaluate(
        "",
        "Another data set to evaluate on, as --dataset has it, during pretraining and in knn_eval "
        "and linear_eval. Empty: --dataset.",
    )
    eval_data_dir: str = _evaluate(
        "", "The folder or data directory of --eval_dataset, as --data_dir has it.", path=True
    )
    knn_k: int = _evaluate(
        0,
        "Neighbours that vote in knn_eval; 0: min(sqrt(N), half the mean class size, 200).",
        low=0,
    )
    knn_temperature: float = _evaluate(0.07, "Temperature of the votes.", positive=True)
    labels_per_class: str = _evaluate(
        DEFAULT_LABELS,
        "linear_eval: how many labels per class to learn from, a list. The default leaves "
        "out what is more than the smallest class has.",
    )
    label_draws: int = _evaluate(20, "linear_eval: random draws of those labels.", low=1)
    l2_sweep: int = _evaluate(45, "linear_eval: regularisation values tried.", low=1)
    baselines: bool = _evaluate(True, "Also evaluate raw pixels and a random encoder.")

    table: str = _table(
        "",
        "Folder of the table of embeddings: embed writes it, for the images of --train_split, and "
        "search reads it. Empty: WORKDIR/embeddings.",
        path=True,
    )
    table_format: str = _table(
        "parquet",
        "Files of the table: Parquet, or .npy with a CSV of paths.",
        choices=("parquet", "npy"),
    )
    shard: str = _table(
        "1/1",
        "Number of this machine and number of machines, such as 2/4: each computes every n-th part "
        "of the table. On a shared disk the last machine to finish puts the table in place.",
    )
    query: str = _table(
        "", "What to search for: a path in the table, or an image or a folder of images."
    )
    neighbors: int = _table(10, "How many images to find for each query.", low=1, high=1000)
    search_backend: str = _table(
        "auto",
        "How to search. exact: compares the query with every vector; faiss: approximate, for large "
        "tables (pip install 'tf_simclr[search]'); auto: faiss above a million vectors if it is "
        "installed, else exact.",
        choices=("auto", "exact", "faiss"),
    )
    search_dir: str = _table(
        "",
        "Folder for nearest.json, nearest.html and the index of faiss. Empty: TABLE.search.",
        path=True,
    )

    duplicates_dir: str = _copies("", "Folder to write to. Empty: WORKDIR/duplicates.", path=True)
    duplicate_bits: int = _copies(
        6, "In how many of 64 bits the perceptual hashes of near copies may differ.", low=0, high=15
    )
    duplicate_cosine: float = _copies(
        0.2,
        "How far near copies may be apart for the encoder, in median distances (1 - cosine) of an "
        "image to its nearest neighbour.",
        low=0,
        high=1,
    )
    outliers: int = _copies(20, "How many outliers to show.", low=0, high=10_000)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        for dataset, data_dir in (("dataset", "data_dir"), ("eval_dataset", "eval_data_dir")):
            self._resolve_folder(dataset, data_dir)
        config_rules.check_together(self)
        self.label_counts()
        self.shard_of()

    def _resolve_folder(self, dataset: str, data_dir: str) -> None:
        """Replaces a path given as data set by "folder", with the path as data directory."""
        resolved = config_rules.resolved_folder(self, dataset, data_dir)
        for name, value in zip((dataset, data_dir), resolved):
            object.__setattr__(self, name, value)

    def as_given(self, names: Iterable[str]) -> Config:
        """This config, with the names of the flags given; `dataclasses.replace` forgets them."""
        object.__setattr__(self, "given", frozenset(names))
        return self

    def label_counts(self) -> tuple[int | None, ...]:
        """`labels_per_class` as numbers; None means all."""
        return label_counts(self.labels_per_class)

    def loss_settings(self) -> dict[str, float]:
        """The settings that `loss` takes."""
        return {name: getattr(self, name) for name in config_rules.LOSS_SETTINGS[self.loss]}

    def shard_of(self) -> tuple[int, int]:
        """`shard` as numbers, (i, n) with 1 <= i <= n."""
        return shard_of(self.shard)

    @property
    def chooses_steps(self) -> bool:
        """Whether `train_minutes` decides how many steps to train, and has not decided yet."""
        return bool(self.train_minutes) and not self.train_steps

    def changed_from(self, saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings that alter the run and differ from `saved`: {name: (saved, now)}."""
        changed = {}
        for field in dataclasses.fields(self):
            if field.name == "train_steps" and self.chooses_steps:
                continue  # They are not chosen yet.
            now = getattr(self, field.name)
            before = saved.get(field.name, field.default)  # The run may predate the setting.
            same = may_be_same_place if field.metadata["path"] else operator.eq
            if saved and field.metadata["alters_run"] and not same(before, now):
                changed[field.name] = (before, now)
        if saved.get("mode", self.mode) != self.mode:
            changed["mode"] = (saved["mode"], self.mode)
        return changed


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
