"""The binary: parse the flags, make the strategy, run one task.

python -m tf_simclr --mode=MODE --workdir=DIR [--flagfile=flags/X.flags] [flags]
"""

from __future__ import annotations

import logging as std_logging
import os
import sys

# Before TensorFlow starts: it complains of GPU libraries on machines without a GPU, and what really
# goes wrong reaches us as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

from tf_simclr import flag_defs
from tf_simclr.errors import UserError

USER_ERROR = 2  # Exit code of a mistake that the message tells how to mend.


def cli() -> None:
    """Entry point of `tf-simclr` and `python -m tf_simclr`."""
    flag_defs.define_flags()
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flag_defs.parse(argv)
    except flags.Error as error:
        sys.exit(_told(error))


def _main(argv: list[str]) -> int:
    _quiet_logging()
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is no flag; every flag starts with two dashes.")
        config = flag_defs.config_from_flags()
        # Imported late: TensorFlow takes seconds, a mistyped flag should not.
        from tf_simclr import tasks
        from tf_simclr.distribute import make_strategy

        strategy = make_strategy(
            config.strategy,
            tpu_name=config.tpu_name or None,
            tpu_zone=config.tpu_zone or None,
            gcp_project=config.gcp_project or None,
            virtual_cpus=config.virtual_cpus,
        )
        tasks.run(config, strategy)
    except UserError as error:
        return _told(error)
    return 0


def _told(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return USER_ERROR


def _quiet_logging() -> None:
    """Our messages without decoration; of TensorFlow's only the warnings."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(message)s"))
    handler.addFilter(
        lambda record: record.levelno >= std_logging.WARNING or "tf_simclr" in record.pathname
    )
