"""Runs that repeat the numbers of another seed, and reruns of a run id that end with other values.

If a run and its repetition with another seed both counted, a difference would look more certain than it is. Reruns of
one id are compared, but only one of them counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ablate.analysis.run_curve import RunCurve

N_DISTINCT = 3
"""Fewer distinct values of the metric can be equal by chance, as with an accuracy that stays at 0 or 1."""


def find_repeats(runs: Iterable[RunCurve]) -> Mapping[str, int]:
    """Run id -> seed of an earlier run of the same arm that logged the very same numbers.

    A program that does not read its seed trains the same run again. Clock times do not count. Only programs are
    checked: ablate's own training always uses the seed, and a log may come from anywhere.
    """
    first: dict[tuple[str, bytes], int] = {}
    repeats: dict[str, int] = {}
    for run in runs:
        if "program" in run.config and run.has_ended and (numbers := take_numbers(run)):
            seed = first.setdefault((run.arm, numbers), run.seed)
            if seed != run.seed:
                repeats[run.run_id] = seed
    return repeats


def take_numbers(run: RunCurve) -> bytes:
    """The losses that a run logged, to compare it with others; empty if they can be equal by chance."""
    if np.unique(run.evaluation_loss).size < N_DISTINCT:
        return b""
    return b"".join(part.tobytes() for part in (run.columns["step"], run.columns["train_loss"], run.evaluation_loss))


@dataclass(frozen=True)
class Reruns:
    """How far reruns of the same run id differ at their ends.

    `n_runs` ids were trained more than once to the same step. Besides the runs that count, there are `n_reruns`.
    `largest` and `mean` are absolute differences between the final values of a rerun and of the run that counts.
    `is_deterministic` is true if every one of these runs used only deterministic algorithms.
    """

    n_runs: int
    n_reruns: int
    largest: float
    mean: float
    is_deterministic: bool


def find_reruns(runs: Iterable[RunCurve]) -> Reruns | None:
    """Compare the final values of reruns with those of the runs that count; None without reruns.

    Reruns come from merged archives, and from studies that are compared and contain the same run id.
    """
    by_id: dict[str, list[RunCurve]] = {}
    for run in runs:
        by_id.setdefault(run.run_id, []).append(run)
    gaps: dict[str, list[float]] = {}
    modes: list[bool] = []
    for run_id, (first, *others) in by_id.items():
        if not np.isfinite(first.final_loss):
            continue
        name = first.metric.name
        ends = [(run.final_loss, run.manifest.get("deterministic")) for run in others if not _is_same(first, run)]
        ends += [
            (rerun.values.get(name, np.nan), rerun.deterministic)
            for rerun in first.reruns
            if (rerun.state, rerun.step) == (first.status.state, first.status.step)
        ]
        found = [(abs(end - first.final_loss), mode is True) for end, mode in ends if np.isfinite(end)]
        if found:
            gaps[run_id] = [gap for gap, _ in found]
            modes += [first.manifest.get("deterministic") is True, *(mode for _, mode in found)]
    every = [gap for found in gaps.values() for gap in found]
    return Reruns(len(gaps), len(every), max(every), float(np.mean(every)), all(modes)) if every else None


def _is_same(one: RunCurve, other: RunCurve) -> bool:
    """Tell whether two curves are copies of one another: even their clock times agree."""
    return np.array_equal(one.columns["wall_s"], other.columns["wall_s"], equal_nan=True) and np.array_equal(
        one.evaluation_loss, other.evaluation_loss, equal_nan=True
    )
