"""The names of runs and metrics in MLflow, whose pages group metrics by what stands before the first slash."""

from __future__ import annotations

import re

MAX_NAME = 250

_ILLEGAL = re.compile(r"[^\w. :/-]+", re.ASCII)  # in the name of a metric
_GROUPS = {
    "training": ("learning_rate", "grad_norm"),
    "cost": ("tokens", "flops", "wall_s", "tokens_per_s"),
}
_GROUP_OF = {key: group for group, keys in _GROUPS.items() for key in keys}
_SPLITS = ("val", "train")

# Every line has one of these keys, with a finite number.
EVERY_LINE = ("learning_rate", "wall_s")


def name_metric(key: str) -> str:
    """Name a column of a curve that ablate's own loop wrote: `val_loss` is `loss/val`, and what describes the model is
    in the group `diagnostics`."""
    split, _, rest = key.partition("_")
    if split in _SPLITS and rest:
        return make_legal(f"{rest}/{split}")
    return make_legal(f"{_GROUP_OF.get(key, 'diagnostics')}/{key}")


def make_legal(name: str) -> str:
    """Replace the characters that MLflow does not allow in the name of a metric, as in `top@5`."""
    return _ILLEGAL.sub("-", name)[:MAX_NAME]
