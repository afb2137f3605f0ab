"""The binary: parse the flags, make the strategy, run one task.

python -m tf_simclr --mode=MODE --workdir=DIR [--flagfile=RECIPE] [flags]
"""

from __future__ import annotations

import logging as std_logging
import os
import sys

# Before TensorFlow starts: it warns about GPU libraries on machines without a GPU, and real
# errors reach us as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

from tf_simclr import flag_defs
from tf_simclr.errors import BAD_REQUEST, STOPPED, Stopped, UserError, printable
from tf_simclr.flag_help import answer_help
from tf_simclr.modes import MODES

INTERRUPTED = 130  # Exit code for SIGINT when there is nothing to save: the shell's 128 + 2.


def cli() -> None:
    """Entry point of `tf-simclr` and `python -m tf_simclr`."""
    flag_defs.define_flags()
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    code = answer_help(argv)
    if code is not None:
        sys.exit(code)
    try:
        return flag_defs.parse(argv, flag_values)
    except (flags.Error, UserError) as error:
        sys.exit(_report(error))


def _main(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> int:
    _quiet_logging()
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not a flag; every flag starts with two dashes.")
        config = flag_defs.config_from_flags(flag_values)
        # Imported late: TensorFlow takes seconds, a mistyped flag should not.
        from tf_simclr import tasks
        from tf_simclr.distribute import enable_determinism, first_task, make_strategy

        alone = not MODES[config.mode].trains
        if alone and not first_task():
            logging.info("--mode=%s runs on the first host only; this one is done.", config.mode)
            return 0
        if config.deterministic:
            enable_determinism(config.seed)
        strategy = make_strategy(
            config.strategy,
            tpu_name=config.tpu_name or None,
            tpu_zone=config.tpu_zone or None,
            gcp_project=config.gcp_project or None,
            virtual_cpus=config.virtual_cpus,
            this_host_only=alone,
        )
        tasks.run(config, strategy)
    except UserError as error:
        return _report(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted; what was saved before is kept.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _report(error: Exception) -> int:
    print(f"error: {_printable_lines(str(error))}", file=sys.stderr)
    return BAD_REQUEST


class _Formatter(std_logging.Formatter):
    def format(self, record: std_logging.LogRecord) -> str:
        return _printable_lines(super().format(record))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _quiet_logging() -> None:
    """Logs our messages without a prefix, and only warnings from TensorFlow."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(_Formatter("%(message)s"))
    handler.addFilter(
        lambda record: record.levelno >= std_logging.WARNING or "tf_simclr" in record.pathname
    )
