"""One task per --mode: it takes the Config apart and calls the rooms below with plain arguments."""

from __future__ import annotations

import importlib


def run(config, strategy) -> None:
    """Runs the task of `config.mode`, a module of this package with that name."""
    importlib.import_module(f"tf_simclr.tasks.{config.mode}").run(config, strategy)
