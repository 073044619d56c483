"""The cost of an imported training at each line of its curve. Doubtful costs are left out, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ablate.analysis.curve_columns import Floats
from ablate.imports.metric_curve import find_fault, settle, spread_cost
from ablate.imports.training import NO_CURVE, Training

Clock = Literal["wall_s", "points"]
"""The source of seconds: a metric of training time, or the times of logged points (evaluation included)."""

MIN_EVALUATION_S = 0.05
"""If evaluations are closer in time (s), the points were logged after the training and not during it."""

_OTHER_STEPS = "the steps of the validation loss are not those of the training"
_Cost = tuple[Floats, str]  # at every line, and why a logged cost is left out


def read_costs(training: Training, clock: Clock) -> Mapping[str, _Cost]:
    """Read `tokens`, `flops` and `wall_s` (s), each [line] and nan if unknown, with the reason if it is left out."""
    tokens, flops = _read_tokens(training), _read_counter(training, "flops")
    per_token = training.count_of("flops_per_token")
    if per_token and "flops" not in training.settled:
        flops = tokens[0] * per_token, tokens[1]
    return {"tokens": tokens, "flops": flops, "wall_s": read_seconds(training, clock)}


def read_seconds(training: Training, clock: Clock) -> _Cost:
    if clock == "wall_s":
        return _read_counter(training, "wall_s")
    if fault := _find_clock_fault(training):
        return _leave_out(training, fault)
    elapsed = np.full(training.lines.size, -np.inf)
    for curve in training.curves.values():
        places = np.searchsorted(training.lines, curve.steps)
        elapsed[places] = np.fmax(elapsed[places], curve.times_s)
    return np.maximum.accumulate(elapsed), ""


def _read_tokens(training: Training) -> _Cost:
    """Read tokens from a metric or from the tokens per step. If both exist, they have to agree."""
    logged, per_step = _read_counter(training, "tokens"), training.count_of("tokens_per_step")
    if not per_step or logged[1]:
        return logged
    if training.counts_training is False:
        return _leave_out(training, _OTHER_STEPS)
    counted = training.lines * per_step
    known = np.flatnonzero(np.isfinite(logged[0]) & (counted > 0))
    if known.size and not 0.9 <= logged[0][known[-1]] / counted[known[-1]] <= 1.1:
        return _leave_out(training, "the metric and tokens_per_step do not agree")
    return logged if known.size else (counted, "")


def _read_counter(training: Training, what: str) -> _Cost:
    """Read a cost that was logged as a metric."""
    if what not in training.settled:
        return _leave_out(training, "")
    if what not in training.curves:
        return _leave_out(training, "logged at other steps than the validation loss")
    curve = training.curves[what]
    if fault := find_fault("count", curve.steps, curve.values, slack=1.0):
        return _leave_out(training, fault)
    return spread_cost(training.lines, curve.steps, curve.values), ""


def _leave_out(training: Training, reason: str) -> _Cost:
    return np.full(training.lines.size, np.nan), reason


def _find_clock_fault(training: Training) -> str:
    """Check the clock of each run of a requeued training by itself."""
    began = first = 0.0
    for index, piece in enumerate(training.histories):
        loss = settle(piece["val_loss"]) if "val_loss" in piece else NO_CURVE
        if not loss.size:
            continue
        seconds, slack = loss.times_s - began, loss.interval if index else 0.0
        if fault := find_fault("clock", loss.steps, seconds, min(first, float(loss.steps[0])), slack):
            return fault
        if np.median(np.diff(seconds)) < MIN_EVALUATION_S:
            return "the points were logged all at once"
        began, first = max(float(history.times_s.max()) for history in piece.values()), float(loss.steps[-1])
    return ""
