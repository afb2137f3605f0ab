"""The command line, parsed as the binary parses it."""

from __future__ import annotations

from absl import flags

from tf_simclr import flag_defs


def parse(*arguments):
    """The Config of a command line; no arguments may be left over."""
    values = flags.FlagValues()
    flag_defs.define_flags(values)
    assert flag_defs.parse(["tf_simclr", *arguments], values) == ["tf_simclr"]
    return flag_defs.config_from_flags(values)
