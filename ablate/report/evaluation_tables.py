"""The tables of evaluations: what each arm can do, and how soon it could."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from ablate.analysis.capabilities import Capability
from ablate.analysis.evaluations import EvaluationResult
from ablate.analysis.speedup import SpeedUp
from ablate.formatting import count, format_number
from ablate.report.notation import AXIS_NAMES, DASH, clean_name, format_p_value, format_speedup, join_with_and
from ablate.report.table import Table
from ablate.tracking.evaluations import Level

VERDICTS = ("better", "worse", "equivalent")
MOST_ROWS = 40  # of a table in the terminal; the page folds longer ones
HEADER = ("Arm", "Metric", "Cell", "Mean", "95 % interval", "Item error", "Chance", "Difference", "Verdict", "p")

NOTE = (
    "Differences are arm minus baseline, paired by seed, with unadjusted 95 % intervals. P-values are adjusted by "
    "Holm's method over all tests of this evaluation. The item error is the standard error over the items of one run, "
    "which is not the noise between seeds."
)


def tabulate_evaluations(rows: Sequence[EvaluationResult], labels: Mapping[str, str] | None = None) -> list[Table]:
    """One table per evaluation. `labels` has the names of arms."""
    return [
        _tabulate([row for row in rows if row.evaluation == evaluation], evaluation, labels or {})
        for evaluation in dict.fromkeys(row.evaluation for row in rows)
    ]


def summarize_evaluations(rows: Sequence[EvaluationResult], labels: Mapping[str, str], limit: int) -> Table:
    """A few results of every evaluation in one table: decided ones first, then other differences."""
    known = [row for row in rows if row.mean is not None]
    names = list(dict.fromkeys(row.evaluation for row in known))
    ranked = [sorted((row for row in known if row.evaluation == name), key=_rank) for name in names]
    turns = [row for turn in zip_longest(*ranked) for row in turn if row is not None]
    kept = set(map(id, turns[:limit]))
    cells: list[tuple[str, ...]] = []
    for row in known:
        if id(row) in kept:
            arm, metric, cell, mean, *_ = _write_row(row, labels)
            named = metric if metric == row.evaluation else f"{row.evaluation} {metric}"
            difference = _write_difference(replace(row, difference_low=None))
            cells.append((arm, named, cell, mean, difference, row.verdict or DASH))
    return _drop_empty(
        Table(
            "evaluations",
            f"Evaluations: {len(cells)} of {len(known):,} results",
            ("Arm", "Metric", "Cell", "Mean", "Difference", "Verdict"),
            tuple(cells),
            f"The page has all results of {count(len(names), 'evaluation')}, with intervals and p-values.",
        )
    )


def count_verdicts(rows: Sequence[EvaluationResult], labels: Mapping[str, str]) -> Table:
    """How many results of each arm are better or worse than the baseline's, by evaluation."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        if row.verdict is not None:
            counts.setdefault(row.arm, {}).setdefault(row.evaluation, Counter())[row.verdict] += 1
    names = list(dict.fromkeys(row.evaluation for row in rows if row.verdict is not None))
    cells = [
        (labels.get(arm, arm), *(_write_counts(found.get(name)) for name in names)) for arm, found in counts.items()
    ]
    return Table(
        "evaluation-verdicts",
        "Evaluations: how many results of each arm have a verdict against the baseline",
        ("Arm", *names),
        tuple(cells),
        "Results of one evaluation depend on each other, so the numbers are no score. The tables below have them all.",
    )


def _write_counts(counts: Counter[str] | None) -> str:
    if counts is None:
        return DASH
    told = [f"{n} {verdict}" for verdict in VERDICTS if (n := counts[verdict])]
    return f"{', '.join(told) or 'none'} of {counts.total()}"


def _drop_empty(table: Table) -> Table:
    """The table without the columns that are empty, besides the first two."""
    kept = [place for place in range(len(table.header)) if place < 2 or any(row[place] != DASH for row in table.rows)]
    header, *rows = (tuple(cells[place] for place in kept) for cells in (table.header, *table.rows))
    return replace(table, header=header, rows=tuple(rows))


def _rank(row: EvaluationResult) -> int:
    return 0 if row.verdict not in (None, "undecided") else 1 if row.difference is not None else 2


def _tabulate(rows: Sequence[EvaluationResult], evaluation: str, labels: Mapping[str, str]) -> Table:
    known = {(row.metric, format_cell(row.within)) for row in rows if row.mean is not None}
    cells = [_write_row(row, labels) for row in rows if not known or (row.metric, format_cell(row.within)) in known]
    notes = [NOTE] if any(row.difference_low is not None for row in rows) else []
    if any(row.is_at_chance for row in rows):
        notes.append("At chance: the interval over seeds, or the one over items, holds the chance level.")
    if factors := list(dict.fromkeys(row.metric for row in rows if row.is_factor)):
        which = join_with_and(factors)
        notes.append(
            f"Factors ({which}): means and intervals of logarithms; a difference is the ratio of arm to baseline."
        )
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.mean is None and row.note:
            reasons.setdefault(row.note, {})[format_cell(row.within) if row.within else row.metric] = None
    notes += [f"Not evaluated ({join_with_and(list(cells))}): {note}." for note, cells in reasons.items()]
    n_seeds = sorted({row.n for row in rows if row.n})
    fewest = f"{n_seeds[0]} to " if len(n_seeds) > 1 else ""
    seeds = f", mean over {fewest}{count(n_seeds[-1], 'seed')}" if n_seeds else ""
    if fewest:
        n_of_arm = {row.arm: row.n for row in rows if row.n}
        notes.append("Seeds: " + ", ".join(f"{labels.get(arm, arm)} {n}" for arm, n in n_of_arm.items()) + ".")
    name, caption = f"evaluation-{clean_name(evaluation)}", f"Evaluation: {evaluation}{seeds}"
    return _drop_empty(Table(name, caption, HEADER, tuple(cells), "\n".join(notes)))


def _write_row(row: EvaluationResult, labels: Mapping[str, str]) -> tuple[str, ...]:
    mean = DASH if row.mean is None else format_number(row.mean, 4)
    return (
        labels.get(row.arm, row.arm),
        row.metric,
        format_cell(row.within),
        f"{mean} (at chance)" if row.is_at_chance else mean,
        format_interval(row.low, row.high),
        DASH if row.item_error is None else format_number(row.item_error, 2),
        DASH if row.chance is None else format_number(row.chance, 3),
        _write_difference(row),
        row.verdict or DASH,
        format_p_value(row.p_holm),
    )


def format_cell(within: Mapping[str, Level]) -> str:
    """A cell by its levels: needles=2, depth=0.5."""
    return ", ".join(f"{name}={level}" for name, level in within.items()) or DASH


def format_interval(low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"[{format_number(low, 4)}, {format_number(high, 4)}]"


def _write_difference(row: EvaluationResult) -> str:
    if row.difference is None:
        return DASH
    interval = format_interval(row.difference_low, row.difference_high)
    if row.is_factor:
        return f"{format_number(row.difference, 3)}x{'' if interval == DASH else f' {interval}'}"
    sign = "+" if row.difference >= 0 else ""
    return f"{sign}{format_number(row.difference, 3)}{'' if interval == DASH else f' {interval}'}"


def tabulate_capabilities(
    capabilities: Sequence[Capability], losses: Mapping[str, SpeedUp], axis: str, labels: Mapping[str, str], metric: str
) -> Table:
    """The speedup of each capability beside that in the study's `metric`, on one axis of cost, arm by arm."""
    rows = [row for row in capabilities if row.speedup.axis == axis]
    arms = list(dict.fromkeys(row.speedup.arm for row in rows))
    rows.sort(key=lambda row: arms.index(row.speedup.arm))
    lines = [
        (
            labels.get(row.speedup.arm, row.speedup.arm),
            f"{row.evaluation} {row.metric}",
            format_cell(row.within),
            _write_speedup(row),
            format_speedup(losses[row.speedup.arm]) if row.speedup.arm in losses else DASH,
        )
        for row in rows
    ]
    points = sorted({row.points for row in rows if row.points})
    note = (
        f"The {AXIS_NAMES[axis]} at which the baseline ends, divided by those at which the arm crosses the baseline's "
        f"final value, from {'-'.join(map(str, points))} evaluations per run; unadjusted 95 % intervals. A value at "
        "chance has no crossing."
    )
    caption = f"Capabilities: speedup in {AXIS_NAMES[axis]} to the baseline's final value"
    return Table("capabilities", caption, ("Arm", "Capability", "Cell", "Speedup", f"In {metric}"), tuple(lines), note)


def _write_speedup(row: Capability) -> str:
    return format_speedup(row.speedup) if row.speedup.n_pairs else row.speedup.note
