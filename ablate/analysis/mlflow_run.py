"""One run of anybody's code, as MLflow has it: its arm and seed, and its curve as a run of a study has it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ablate.analysis.arrow import Floats
from ablate.analysis.border import check_manifest, clean
from ablate.analysis.curves import Known
from ablate.analysis.lines import CORE_COLUMNS
from ablate.errors import AblateError, RecordError, suggest
from ablate.tracking.mlflow_reader import History, MlflowRun
from ablate.tracking.records import LARGEST, MAX_COUNT, State, Status, Value

FACTS: Mapping[str, tuple[str, ...]] = {
    "arm": ("arm",),
    "seed": ("seed",),
    "device": ("device",),
    "steps": ("max_steps", "n_steps", "num_steps", "total_steps", "train.steps", "max_iters", "num_train_steps"),
    "tokens_per_step": ("tokens_per_step", "tokens_per_batch"),
    "flops_per_token": ("flops_per_token",),
    "n_params": ("n_params", "num_params", "num_parameters", "parameters"),
    "precision": ("precision", "train.precision", "dtype"),
    "schedule": ("schedule", "train.schedule", "lr_scheduler_type", "lr_scheduler"),
}
"""What is read from a run's tags and params, and the names under which it is looked for."""

CURVES: Mapping[str, tuple[str, ...]] = {
    "val_loss": ("val/loss", "val_loss", "eval/loss", "eval_loss"),
    "train_loss": ("train_loss", "train/loss", "loss"),
    "tokens": ("tokens", "train/tokens", "tokens_seen", "n_tokens", "num_tokens"),
    "flops": ("flops", "train/flops"),
    "wall_s": ("wall_s",),
    "learning_rate": ("learning_rate", "train/learning_rate", "lr", "train/lr"),
    "grad_norm": ("grad_norm", "train/grad_norm"),
    "tokens_per_s": ("tokens_per_s", "tokens_per_second", "tokens_per_sec"),
}
"""The same of its metrics, by the column of a curve."""

_STATES: Mapping[str, State] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "failed",
    "RUNNING": "running",
    "SCHEDULED": "queued",
}
_MIRRORED_AXIS = "axis."  # params of runs that ablate itself brought to MLflow


@dataclass(frozen=True)
class Names:
    """Names chosen for some of `FACTS` and `CURVES`; for `arm`, several with commas are an axis each.

    Raises `AblateError` for any other key.
    """

    chosen: Mapping[str, str]

    def __post_init__(self) -> None:
        for what, name in self.chosen.items():
            if what not in (*FACTS, *CURVES):
                raise AblateError(f"map: {what!r} is nothing that is looked for{suggest(what, (*FACTS, *CURVES))}")
            if not self.of(what):
                raise AblateError(f"map: {what}={name} names no tag, param or metric")

    def of(self, what: str) -> tuple[str, ...]:
        if what not in self.chosen:
            return FACTS[what] if what in FACTS else CURVES[what]
        return tuple(name for part in self.chosen[what].split(",") if (name := part.strip()))


@dataclass(frozen=True, eq=False)
class ForeignRun:
    """A run under the given names. `histories` holds, by the column of a curve, what was read of its metrics."""

    run: MlflowRun
    names: Names
    histories: Mapping[str, History]

    @cached_property
    def axes(self) -> Mapping[str, Value]:
        """Its levels; empty where nothing says which arm it is of."""
        found = {name: self._look(name) for name in self.names.of("arm")}
        if "arm" not in self.names.chosen and found["arm"] is not None:
            mirrored = {name.removeprefix(_MIRRORED_AXIS): text for name, text in self.run.params.items()
                        if name.startswith(_MIRRORED_AXIS)}  # fmt: skip
            found = {**mirrored} or found
        return {clean(axis): read_level(clean(text)) for axis, text in found.items() if text is not None}

    @property
    def arm(self) -> str:
        names = self.names.of("arm")
        if len(names) == 1:
            return str(clean(self._look(names[0])))
        return ",".join(f"{axis}={level}" for axis, level in self.axes.items())

    @property
    def seed(self) -> int | None:
        """Raises `RecordError` where what says it is no whole number."""
        text = self.fact("seed")
        if text is None:
            return None
        number = _read_number(text)
        if number is None or number != int(number):
            raise RecordError(f"run {self.run.run_id}: its seed is {text!r}, which is not a whole number")
        return int(number)

    def fact(self, what: str) -> str | None:
        return next((text for name in self.names.of(what) if (text := self._look(name)) is not None), None)

    def count_of(self, what: str) -> int:
        """A fact that is a positive whole number; 0 where it is not known."""
        number = _read_number(self.fact(what) or "") or 0
        return int(number) if 0 < number <= MAX_COUNT else 0

    def _look(self, name: str) -> str | None:
        return self.run.tags.get(name) or self.run.params.get(name) or None

    @cached_property
    def columns(self) -> Mapping[str, Floats]:
        """All of `CORE_COLUMNS`, over every step at which any of them was logged."""
        known = self.histories.values()
        steps = np.unique(np.concatenate([np.empty(0), *(history.steps for history in known)]))
        columns = {name: np.full(steps.size, np.nan) for name in CORE_COLUMNS} | {"step": steps}
        for name, history in self.histories.items():
            columns[name][np.searchsorted(steps, history.steps)] = history.values
        columns = {name: np.where(np.abs(values) <= LARGEST, values, np.nan) for name, values in columns.items()}
        for name in ("tokens", "flops", "wall_s"):
            columns[name] = _fill_cost(steps, columns[name])
        if (per_step := self.count_of("tokens_per_step")) and "tokens" not in self.histories:
            columns["tokens"] = steps * per_step
        if (per_token := self.count_of("flops_per_token")) and "flops" not in self.histories:
            columns["flops"] = columns["tokens"] * per_token
        if "wall_s" not in self.histories:
            columns["wall_s"] = _read_clock(steps, known, self.run.start_s)
        return columns

    @property
    def last_step(self) -> int:
        return int(self.columns["step"][-1]) if self.columns["step"].size else 0

    @property
    def interval(self) -> int:
        """Steps between two evaluations: a run that ends nearer than that to its budget was trained to its end."""
        history = self.histories.get("val_loss")
        return int(np.median(np.diff(history.steps))) if history is not None and history.steps.size > 1 else 1

    @property
    def state(self) -> State:
        """As MLflow says it; `diverged` where the last loss that was logged is not finite, however the run ended."""
        state = _STATES.get(self.run.status, "failed")
        last = (
            h.values[-1] for name in ("val_loss", "train_loss") if (h := self.histories.get(name)) and h.values.size
        )
        is_lost = not all(map(math.isfinite, last)) or self.run.tags.get("state") == "diverged"
        return "diverged" if is_lost and state in ("finished", "failed") else state

    def known(self, n_steps: int) -> Known:
        """What a study knows of it, given its budget (steps)."""
        device = self.fact("device")
        manifest = {
            "device": {"kind": device, "name": device} if device else {},
            "precision": self.fact("precision"),
            "commit": self.run.tags.get("mlflow.source.git.commit"),
        }
        error = f"MLflow says {self.run.status}" if self.state == "failed" else ""
        return Known(
            Status(self.state, self.last_step, n_steps, error=error),
            self.columns,
            check_manifest(clean(manifest)),
            {"train": {"schedule": clean(self.fact("schedule"))}},
        )


def read_level(text: str) -> Value:
    """A number where the text is one, else the text."""
    number = _read_number(text)
    return text if number is None else int(number) if number == int(number) and "." not in text else number


def _read_number(text: str) -> float | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    return value if is_number else None


def _fill_cost(step_p: Floats, cost_p: Floats) -> Floats:
    """A cost where it was not logged: in proportion between two steps where it was, and at its average after them."""
    known = np.isfinite(cost_p) & (step_p > 0)
    if not known.any():
        return cost_p
    steps, costs = np.append(0.0, step_p[known]), np.append(0.0, cost_p[known])
    beyond = costs[-1] * np.maximum(step_p / steps[-1], 1.0)
    return np.where(np.isfinite(cost_p), cost_p, np.where(step_p > steps[-1], beyond, np.interp(step_p, steps, costs)))


def _read_clock(step_p: Floats, histories: Iterable[History], start_s: float) -> Floats:
    """Seconds since the start of the run when each step was logged, nan throughout where the clock says nothing."""
    elapsed = np.full(step_p.size, -np.inf)
    for history in histories:
        places = np.searchsorted(step_p, history.steps)
        elapsed[places] = np.maximum(elapsed[places], history.times_s - start_s)
    is_clock = elapsed.size > 1 and elapsed[0] >= 0 and bool((np.diff(elapsed) >= 0).all()) and elapsed[-1] > elapsed[0]
    return elapsed if is_clock else np.full(step_p.size, np.nan)
