"""The names of metrics in MLflow, whose pages group metrics by what stands before the last slash."""

from __future__ import annotations

import re

from ablate.metrics import Metric
from ablate.tracking.evaluations import EvaluationRow

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


def name_mean(metric: Metric, label: str, n_seeds: int, version: int = 1) -> str:
    """Name the mean of a metric over the seeds of an arm: `arms/differential ngpt: mean val_loss of 3 seeds`.

    `version` counts the sets of that many runs that the arm has had. MLflow's pages sort groups by name, so arms come
    first, and they cut long titles, so the arm comes before the rest.
    """
    runs = f"{n_seeds} seed{'s' * (n_seeds > 1)}" + f" set {version}" * (version > 1)
    return f"arms/{label.replace(' / ', ' ')[: MAX_NAME // 2]}: mean {metric.name} of {runs}"


def name_final(metric: Metric, label: str) -> str:
    """Name the mean of a metric at the end of an arm's runs: `final_loss/differential ngpt`."""
    return f"final_{metric.short if metric.is_loss else metric.name}/{label.replace(' / ', ' ')}"


def name_result(label: str, row: EvaluationRow) -> str:
    """Name a row of an evaluation's result: `eval/needle/accuracy/needles 2/depth 0.5`."""
    return "/".join(("eval", label, row.metric, *(f"{name} {level}" for name, level in row.within.items())))


def make_legal(name: str) -> str:
    """Replace what MLflow does not allow in the name of a metric, as in `top@5`: some characters, and parts of a path
    that are empty or dots."""
    parts = _ILLEGAL.sub("-", name)[:MAX_NAME].split("/")
    return "/".join("-" if part.strip() in ("", ".", "..") else part for part in parts)[:MAX_NAME].rstrip("/")
