"""Which runs of an arm and its baseline are compared at a target loss, and on which axes of cost they can be.

Targets are paired. For each seed, the target is the baseline's own evaluation loss at 50, 75, 90 or 100 % ("final") of
its budget. If fewer than two seeds match although both sides have two runs, the target is the baseline's mean loss at
that share. With an absolute target, both sides have to cross it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.analysis.convergence import HOLD, Reach, find_share, loss_at, reach_loss
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.errors import AblateError, suggest
from ablate.formatting import count
from ablate.tracking.study_record import ENDED

Target = str | float

_SHARES = {"50": 0.5, "75": 0.75, "90": 0.9, "final": 1.0}
TARGETS: tuple[Target, ...] = tuple(_SHARES)


@dataclass(frozen=True)
class Comparison:
    """An arm and its baseline at one target: which run reached it, and where.

    If the comparison is paired, `baseline[i]` and `arm[i]` share a seed. Otherwise `shifted[j][i]` is arm run i at the
    own target of baseline run j, which carries the noise of the baseline's loss over to the cost.
    """

    baseline: tuple[Reach, ...] = ()
    arm: tuple[Reach, ...] = ()
    target_loss: float | None = None
    is_paired: bool = True
    shifted: tuple[tuple[Reach, ...], ...] = ()
    notes: tuple[str, ...] = ()
    measured_step_s: tuple[float, float] | None = None  # of the baseline and the arm


def parse_target(text: str) -> Target:
    """Read a target: 50, 75, 90, final, or a value of the study's metric, such as a loss of 3.28 nats per token.

    Raises `AblateError` for anything else.
    """
    if text in _SHARES:
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AblateError(
            f"target {text!r}: neither a number nor a share of the baseline's budget{suggest(text, TARGETS)}"
        )
    return value


def compare(results: Results, arm: str, target: Target, hold: int = HOLD) -> Comparison:
    """Pair an arm with its baseline at a target. Unfinished runs are left out; diverged and stopped ones are kept."""
    mine, base = results.ended_runs(arm), results.ended_runs(results.baseline_of(arm))
    notes = [*_note_exclusions(results, arm), *_note_early_ends(mine, "this arm")]
    if isinstance(target, str):
        left_out = [run for run in base if not run.is_whole]
        base = tuple(run for run in base if run.is_whole)
        notes += _note_early_ends(left_out, "the baseline")
    by_seed = {run.seed: run for run in base}
    pairs = [(by_seed[run.seed], run) for run in mine if run.seed in by_seed]
    is_paired = len(pairs) >= 2 or (bool(pairs) and min(len(mine), len(base)) < 2)
    if is_paired:
        mine, base = tuple(run for _, run in pairs), tuple(run for run, _ in pairs)
    if not mine or not base:
        notes.append("nothing to compare: no run of " + ("this arm" if not mine else "the baseline") + " counts")
        return Comparison(notes=tuple(notes))
    if isinstance(target, float):
        at_base, at_arm = (tuple(reach_loss(run, target, hold) for run in runs) for runs in (base, mine))
        return Comparison(at_base, at_arm, target, is_paired, notes=tuple(notes))
    return _compare_at_share(base, mine, target, is_paired, hold, notes)


def _compare_at_share(
    base: tuple[RunCurve, ...], mine: tuple[RunCurve, ...], target: str, is_paired: bool, hold: int, notes: list[str]
) -> Comparison:
    positions = [find_share(run.cost_of_evaluations("steps"), _SHARES[target]) for run in base]
    if any(position is None for position in positions):
        return Comparison(notes=(*notes, f"the baseline has no evaluation before {target} % of its budget"))
    at_base = tuple(Reach(run, "reached", position) for run, position in zip(base, positions, strict=True))
    losses = [loss_at(reach.run.evaluation_loss, reach.position) for reach in at_base if reach.position]
    mean = float(np.mean(losses))
    if is_paired:
        at_arm = tuple(reach_loss(run, loss, hold) for run, loss in zip(mine, losses, strict=True))
        return Comparison(at_base, at_arm, mean, notes=tuple(notes))
    shifted = tuple(tuple(reach_loss(run, loss, hold) for run in mine) for loss in losses)
    at_arm = tuple(reach_loss(run, mean, hold) for run in mine)
    return Comparison(at_base, at_arm, mean, False, shifted, tuple(notes))


def first_crossing(baseline: Iterable[Reach]) -> float | None:
    """Return the place where baseline runs first had the loss of their target, as a mean share (0 to 1) of the target's
    cost in steps.

    It is far below 1 for a curve that is flat or gets worse, as that of a model that overfits. None without costs.
    """
    shares = []
    for reach in baseline:
        if (last := reach.cost("steps")) and reach.position is not None:
            first = reach_loss(reach.run, loss_at(reach.run.evaluation_loss, reach.position))
            shares.append(first.cost("steps") / last)
    known = [share for share in shares if math.isfinite(share)]
    return float(np.mean(known)) if known else None


def find_obstacle(comparison: Comparison, axis: str) -> str:
    """Say why the costs on an axis cannot be compared; empty if they can.

    Steps need one unit. Seconds need the same kind of device, shared in the same way.
    """
    runs = [reach.run for reach in (*comparison.baseline, *comparison.arm)]
    if axis == "steps" and len({run.step_unit for run in runs}) > 1:
        return "steps: the runs count them in different units"
    if axis not in ("seconds", "gpu_seconds"):
        return ""
    reason = find_clock_obstacle(runs, axis)
    return f"{axis}: {reason}" if reason else ""


def find_clock_obstacle(runs: Sequence[RunCurve], axis: str = "seconds") -> str:
    """Say why the clock times of these runs cannot be compared; empty if they can."""
    if not all(map(_is_device_known, runs)):
        return "the devices on which the runs were trained are not known"
    if any(map(took_turns, runs)):
        return "the runs shared a GPU, so each ran at the pace of all (with gpus: 1 each has its own)"
    keys = {sharing_of(run, axis) for run in runs}
    return "" if len(keys) == 1 else "the runs were trained on different devices, or shared them differently"


def _is_device_known(run: RunCurve) -> bool:
    device = device_of(run.manifest)
    return bool(device.get("kind") or device.get("name"))


def took_turns(run: RunCurve) -> bool:
    """Tell whether other runs had a part of the run's GPU.

    Their processes take turns on it, step by step, so a fast arm waits for a slow one (reports/performance, "Small
    models").
    """
    return 0 < run.n_gpus < 1 and run.n_sharing != 1


def sharing_of(run: RunCurve, axis: str = "seconds") -> tuple[Any, ...]:
    """Return what has to be equal for the clock times of two runs to be comparable."""
    device = device_of(run.manifest)
    shared = (device.get("kind"), device.get("name"), run.n_sharing, run.manifest.get("threads"))
    return (*shared, run.n_gpus, run.manifest.get("processes", 1)) if axis == "seconds" else shared


def _note_exclusions(results: Results, arm: str) -> list[str]:
    notes = []
    for name, whose in ((arm, "this arm"), (results.baseline_of(arm), "the baseline")):
        reasons = [_why_left_out(run) for run in results.runs_of(name) if not run.has_ended]
        if reasons:
            notes.append(f"{count(len(reasons), 'run')} of {whose} left out ({', '.join(sorted(set(reasons)))})")
    return notes


def _why_left_out(run: RunCurve) -> str:
    if run.flaw or run.status.state == "failed":
        return run.state
    return "never evaluated" if run.status.state in ENDED else "unfinished"


def _note_early_ends(runs: Iterable[RunCurve], whose: str) -> list[str]:
    early = [run for run in runs if not run.is_whole]
    n_diverged = sum(run.is_diverged for run in early)
    counts = ((n_diverged, "diverged"), (len(early) - n_diverged, "stopped early"))
    return [f"{count(n, 'run')} of {whose} {what}" for n, what in counts if n]
