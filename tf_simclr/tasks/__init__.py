"""One task per --mode. Tasks read the Config and call the packages below with plain arguments."""

from __future__ import annotations

import contextlib
import importlib

from tf_simclr.config import FIELDS
from tf_simclr.modes import MODES


def run(config, strategy) -> None:
    """Runs the task of `config.mode`, a module of this package with that name.

    Raises:
      UserError: the user made a mistake, or another run is using the workdir.
      Stopped: the run was asked to stop, or lost a host; the same command resumes it.
    """
    from tf_simclr.distribute import is_chief
    from tf_simclr.storage import require_known_scheme
    from tf_simclr.training.hosts import exit_when_peer_lost
    from tf_simclr.workdir import explaining_full_memory_or_disk, locked

    for name, field in FIELDS.items():
        if field.metadata["path"]:
            require_known_scheme(getattr(config, name), f"--{name}")
    task = importlib.import_module(f"tf_simclr.tasks.{config.mode}")
    locks = MODES[config.mode].locks and is_chief(strategy)
    with exit_when_peer_lost(strategy), explaining_full_memory_or_disk():
        with locked(config.workdir) if locks else contextlib.nullcontext():
            task.run(config, strategy)
