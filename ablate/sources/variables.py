"""The environment variables by which a program learns its settings."""

from __future__ import annotations

import re

PREFIX = "ABLATE_"
RUN_DIR = f"{PREFIX}RUN_DIR"
LOG = f"{PREFIX}LOG"  # the file to which `ablate.log` appends
_OTHER = re.compile(r"\W", re.ASCII)


def variable_name(setting: str) -> str:
    """`ABLATE_TRAIN_LR` for `train.lr`."""
    return f"{PREFIX}{_OTHER.sub('_', setting).upper()}"
