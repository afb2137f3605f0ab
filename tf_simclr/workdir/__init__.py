"""The folder of a run: its files, its lock, its manifest, its results."""

from tf_simclr.workdir.files import Identity, Workdir, explaining_full_memory_or_disk, read_metrics
from tf_simclr.workdir.lock import locked
from tf_simclr.workdir.manifest import check_same_images, manifest
from tf_simclr.workdir.results import read_results, results_and_files, results_of_encoder

__all__ = [
    "Identity",
    "Workdir",
    "check_same_images",
    "explaining_full_memory_or_disk",
    "locked",
    "manifest",
    "read_metrics",
    "read_results",
    "results_and_files",
    "results_of_encoder",
]
