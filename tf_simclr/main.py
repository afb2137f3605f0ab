"""The binary: parse the flags, make the strategy, run one task.

python -m tf_simclr --mode=MODE --workdir=DIR [--flagfile=flags/X.flags] [flags]
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow starts: no start-up noise.

from absl import app, logging

from tf_simclr import flag_defs
from tf_simclr.errors import UserError

USER_ERROR = 2  # Exit code of a mistake that the message tells how to mend.


def cli() -> None:
    """Entry point of `tf-simclr` and `python -m tf_simclr`."""
    flag_defs.define_flags()
    app.run(_main, flags_parser=flag_defs.parse)


def _main(argv: list[str]) -> int:
    logging.set_verbosity(logging.INFO)
    logging.use_python_logging(quiet=True)
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
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0
