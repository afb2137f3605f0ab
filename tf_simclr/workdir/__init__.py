"""The folder of a run: its files, its lock, what it records of itself, its results."""

from tf_simclr.workdir.files import Identity, Workdir, read_metrics, telling_what_is_full
from tf_simclr.workdir.lock import locked
from tf_simclr.workdir.manifest import check_same_images, manifest
from tf_simclr.workdir.results import read_results, results_and_files, results_of_encoder

__all__ = [
    "Identity",
    "Workdir",
    "check_same_images",
    "locked",
    "manifest",
    "read_metrics",
    "read_results",
    "results_and_files",
    "results_of_encoder",
    "telling_what_is_full",
]
