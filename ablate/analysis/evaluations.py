"""What the evaluations of a study say: one row per metric, cell and arm, with the difference from the baseline.

Differences are paired by seed, like those of losses. P-values are adjusted by Holm's method over all tests of one
evaluation against the same baseline. No difference is claimed where both arms are at chance, because then both only
guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import LEVEL, adjust_p_values
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.analysis.samples import Sample, estimate_family, pair_values
from ablate.analysis.speedup import LARGEST_LOG
from ablate.analysis.verdicts import ALPHA, Verdict, p_of_equivalence
from ablate.formatting import name_error
from ablate.metrics import Direction
from ablate.tracking.evaluations import EvaluationRecord, EvaluationRow, Level

Cell = tuple[tuple[str, Level], ...]
AT_CHANCE = "both arms are at chance"
AS_FACTOR = "averaged and compared as a factor"
_FACTORS = frozenset({("pruned_cache", "saving")})  # of records from before rows said whether they are factors


@dataclass(frozen=True)
class EvaluationResult:
    """An arm's mean over `n` runs of a metric in the cell `within`, and its difference from the baseline's.

    `low` and `high` are the ends of the 95 % interval over seeds. `item_error` is the standard error over the `n_items`
    items of one run. `is_at_chance` means that one of the two intervals that they give holds `chance`; None if there is
    no chance level or no interval. The difference is arm minus baseline, with an unadjusted interval. For a factor,
    such as "4 times", mean and intervals are computed from logarithms, and the difference is the ratio of arm to
    baseline. `is_small` means that it is shown to be smaller than the smallest difference that matters, which the grid
    may give. `verdict` is None for a baseline, and for a metric of which neither direction is better. Without runs,
    `mean` is None and `note` says why.
    """

    evaluation: str
    metric: str
    arm: str
    baseline: str
    within: Mapping[str, Level]
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_items: int = 0
    item_error: float | None = None
    chance: float | None = None
    is_at_chance: bool | None = None
    direction: Direction | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    is_small: bool = False
    verdict: Verdict | None = None
    method: str = ""
    note: str = ""

    @property
    def is_factor(self) -> bool:
        """Whether the metric is a factor, as the note says."""
        return AS_FACTOR in self.note.split("; ")

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"within": dict(self.within)}


@dataclass(frozen=True)
class FailedEvaluation:
    """An evaluation of a run's final weights that ended with an error, and has not succeeded since."""

    arm: str
    seed: int
    evaluation: str
    error: str


@dataclass
class Measured:
    """The rows of one metric and cell, by arm and seed."""

    evaluation: str
    metric: str
    cell: Cell
    direction: Direction | None
    name: str = ""  # of the evaluation, without knobs
    rows: dict[str, dict[int, EvaluationRow]] = field(default_factory=dict)

    def values(self, arm: str) -> dict[int, float]:
        """The value of each run, or its logarithm if it is a factor."""
        known = {seed: row.value for seed, row in self.rows.get(arm, {}).items() if row.value is not None}
        return {seed: math.log(value) for seed, value in known.items()} if self.is_factor else known

    @cached_property
    def is_factor(self) -> bool:
        """Whether it is a factor, such as "4 times". Values up to 0 cannot be."""
        rows = [row for found in self.rows.values() for row in found.values()]
        is_said = any(row.is_factor for row in rows) or (self.name, self.metric) in _FACTORS
        return is_said and all(row.value is None or row.value > 0 for row in rows)

    def item_variance(self, arm: str) -> float:
        """The mean variance that the items leave in the value of a run; 0 if it is not known."""
        rows = [row for row in self.rows.get(arm, {}).values() if row.standard_error is not None]
        errors = [(row.standard_error or 0.0) / ((row.value or 1.0) if self.is_factor else 1.0) for row in rows]
        return float(np.mean(np.square(errors))) if errors else 0.0


def compare_evaluations(results: Results) -> tuple[EvaluationResult, ...]:
    """Compare all arms in all final evaluations, in the order of the study. Runs that failed have no rows."""
    found: list[EvaluationResult] = []
    for measured in collect(final_records(results)):
        rows = {arm: _summarize(results, measured, arm) for arm in results.arms if arm in measured.rows}
        compared = _compare(results, measured, rows)
        scaled = map(_to_factor, compared) if measured.is_factor else compared
        found += [replace(row, is_at_chance=_is_at_chance(row)) for row in scaled]
    adjusted = adjust_p_values(found, lambda row: (row.evaluation, row.baseline))
    known = {(row.evaluation, row.metric, tuple(row.within.items()), row.arm): row for row in adjusted}
    return tuple(
        _judge(row, known.get((row.evaluation, row.metric, tuple(row.within.items()), row.baseline)))
        for row in adjusted
    )


def find_failed(results: Results) -> tuple[FailedEvaluation, ...]:
    """The evaluations that failed, in the order of the study."""
    found: dict[tuple[str, int, str], FailedEvaluation] = {}
    for run in results.runs:
        final = [record for record in run.evaluations if record.step == run.last_step]
        done = {(record.label, record.version, record.code) for record in final if not record.error}
        for record in final:
            if record.error and (record.label, record.version, record.code) not in done:
                entry = FailedEvaluation(run.arm, run.seed, record.label, name_error(record.error))
                found[run.arm, run.seed, record.label] = entry
    return tuple(found.values())


def final_records(results: Results) -> list[tuple[RunCurve, EvaluationRecord]]:
    """The results of the final weights of whole runs, of the newest version of each evaluation."""
    return [(run, record) for run, record in newest_records(results) if record.step == run.last_step]


def newest_records(results: Results) -> list[tuple[RunCurve, EvaluationRecord]]:
    """The results of whole runs that did not fail. If an evaluation has changed, only its newest version counts,
    because two versions cannot be compared."""
    records = [(run, r) for run in results.runs if run.is_whole for r in run.evaluations if not r.error]
    newest: dict[str, EvaluationRecord] = {}
    for _, record in records:
        best = newest.setdefault(record.label, record)
        if (record.version, record.ended_at) > (best.version, best.ended_at):
            newest[record.label] = record
    versions = {label: (record.version, record.code) for label, record in newest.items()}
    return [(run, record) for run, record in records if (record.version, record.code) == versions[record.label]]


def collect(records: Iterable[tuple[RunCurve, EvaluationRecord]]) -> list[Measured]:
    """Gather the rows by evaluation, metric and cell, in the order in which they first appear."""
    found: dict[tuple[str, str, Cell], Measured] = {}
    ordered = sorted(records, key=lambda pair: pair[1].label)
    for run, record in ordered:
        for row in record.rows:
            cell: Cell = tuple(row.within.items())
            key = (record.label, row.metric, cell)
            measured = found.setdefault(key, Measured(*key, record.metrics.get(row.metric), record.name))
            measured.rows.setdefault(run.arm, {})[run.seed] = row
    order = {label: place for place, label in enumerate(dict.fromkeys(record.label for _, record in ordered))}
    return sorted(found.values(), key=lambda measured: order[measured.evaluation])


def _summarize(results: Results, measured: Measured, arm: str) -> EvaluationResult:
    rows = list(measured.rows[arm].values())
    row = EvaluationResult(
        measured.evaluation,
        measured.metric,
        arm,
        results.baseline_of(arm),
        dict(measured.cell),
        chance=next((row.chance for row in rows if row.chance is not None), None),
        direction=measured.direction,
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
    )
    values = np.array(list(measured.values(arm).values()), np.float64)
    if not values.size:
        return row
    mean, low, high = _average(values)
    item_error = math.sqrt(measured.item_variance(arm)) if any(r.standard_error is not None for r in rows) else None
    n_items = max(row.n for row in rows)
    return replace(row, mean=mean, low=low, high=high, n=values.size, n_items=n_items, item_error=item_error)


def _average(values_n: Floats) -> tuple[float, float | None, float | None]:
    """The mean, and the ends of its 95 % interval if there are two values or more."""
    mean, n = float(values_n.mean()), values_n.size
    if n < 2:
        return mean, None, None
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2) * values_n.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def _to_factor(row: EvaluationResult) -> EvaluationResult:
    """The result of a factor from that of its logarithms, where the difference is the logarithm of a ratio."""
    if row.mean is None:
        return row
    mean = math.exp(row.mean)
    low, high = _exponentiate(row.low, row.high)
    difference_low, difference_high = _exponentiate(row.difference_low, row.difference_high)
    return replace(
        row,
        mean=mean,
        low=low,
        high=high,
        item_error=None if row.item_error is None else mean * row.item_error,
        difference=None if row.difference is None else math.exp(row.difference),
        difference_low=difference_low,
        difference_high=difference_high,
        method=row.method and f"{row.method} on the logarithms",
        note="; ".join(filter(None, (row.note, AS_FACTOR))),
    )


def _exponentiate(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """The ends of an interval of logarithms as factors. None if floats cannot represent them."""
    if low is None or high is None or max(-low, high) > LARGEST_LOG:
        return None, None
    return math.exp(low), math.exp(high)


def _is_at_chance(row: EvaluationResult) -> bool | None:
    """Tell whether the interval over seeds, or the one over items, holds chance. The items are the same for all seeds,
    so their noise does not average out."""
    if row.chance is None or row.mean is None:
        return None
    intervals = [(row.low, row.high)] if row.low is not None and row.high is not None else []
    if row.item_error is not None:
        half = float(ndtri(0.5 + LEVEL / 2)) * row.item_error
        intervals.append((row.mean - half, row.mean + half))
    return any(low <= row.chance <= high for low, high in intervals) if intervals else None


def _compare(results: Results, measured: Measured, rows: Mapping[str, EvaluationResult]) -> list[EvaluationResult]:
    """Add the differences from the baseline. All arms of a baseline are tested together."""
    compared: dict[str, EvaluationResult] = dict(rows)
    samples: dict[str, Sample] = {}
    for arm in rows:
        base = results.baseline_of(arm)
        variance = measured.item_variance(arm) + measured.item_variance(base)
        if arm == base:
            continue
        sample = pair_values(arm, base, measured.values(arm), measured.values(base), variance)
        if sample is not None:
            samples[arm] = sample
            compared[arm] = replace(compared[arm], difference=sample.estimate)
    for baseline in dict.fromkeys(map(results.baseline_of, samples)):
        members = [arm for arm, s in samples.items() if results.baseline_of(arm) == baseline and s.is_testable]
        if members:
            margin = results.record.smallest_results.get(measured.evaluation, {}).get(measured.metric)
            if margin is not None and measured.is_factor:
                margin = math.log1p(margin)
            compared |= _test([compared[arm] for arm in members], [samples[arm] for arm in members], margin)
    return list(compared.values())


def _test(
    rows: Sequence[EvaluationResult], samples: Sequence[Sample], margin: float | None
) -> dict[str, EvaluationResult]:
    family, methods = estimate_family(samples)
    estimate = family.plain()
    is_small = np.zeros(family.n_arms) if margin is None else p_of_equivalence(family, margin) < ALPHA
    return {
        row.arm: replace(
            row,
            difference_low=float(estimate.low[place]),
            difference_high=float(estimate.high[place]),
            p_value=float(estimate.p_value[place]) if row.direction is not None else None,
            method=methods[place],
            is_small=bool(is_small[place]),
        )
        for place, row in enumerate(rows)
    }


def _judge(row: EvaluationResult, base: EvaluationResult | None) -> EvaluationResult:
    """Add the verdict. Without an interval it is undecided."""
    if row.difference is None or row.direction is None:
        return row
    if row.is_at_chance and base is not None and base.is_at_chance:
        return replace(row, verdict="undecided", note="; ".join(filter(None, (row.note, AT_CHANCE))))
    if row.p_holm is None or row.p_holm >= ALPHA:
        return replace(row, verdict="equivalent" if row.is_small else "undecided")
    none = 1.0 if row.is_factor else 0.0
    return replace(row, verdict="better" if (row.difference < none) == (row.direction == "lower") else "worse")
