"""The verdict: one sentence that can be quoted, and one more if wall-clock time says something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablate.analysis.differences import Difference
from ablate.analysis.speedup import SpeedUp
from ablate.analysis.verdicts import VERDICTS
from ablate.metrics import Metric
from ablate.report.finding import count_verdicts, describe_one, format_difference, rank_arms
from ablate.report.notation import SIGNIFICANT, format_speedup


def state_verdict(
    differences: Sequence[Difference],
    seconds: Sequence[SpeedUp],
    compared: Sequence[str],
    labels: Mapping[str, str],
    metric: Metric,
    smallest: float | None,
    diverged: Sequence[str] = (),
) -> tuple[str, ...]:
    """The verdict on the final values; then the arms that are faster in seconds, unless they are those that are better.

    `seconds` are the speedups in seconds at the headline's target, and `diverged` the arms that diverged with every
    seed. Empty if no arm has a final value to compare.
    """
    by_arm = {row.arm: row for row in differences}
    rows = [by_arm[arm] for arm in rank_arms(differences, compared, metric) if arm in by_arm]
    if not rows:
        return ()
    if len(compared) == 1:
        sentence = describe_one(rows[0], labels, metric, smallest)
    else:
        verdicts = [row.verdict for row in rows]
        n_diverged = sum(arm in diverged and arm not in by_arm for arm in compared)
        each = [(verdict, verdicts.count(verdict)) for verdict in VERDICTS if verdict in verdicts]
        counts = count_verdicts(each, len(compared), len(rows), n_diverged)
        label, difference = labels[rows[0].arm], f"{format_difference(rows[0])}{metric.unit}"
        is_found = rows[0].verdict == "better"
        best = (
            f"the best is {label}, by {difference}" if is_found else f"the best estimate, of {label}, is {difference}"
        )
        sentence = f"In final {metric.short}, {counts}; {best}."
    return (sentence, *_state_time(rows, seconds, labels))


def _state_time(rows: Sequence[Difference], seconds: Sequence[SpeedUp], labels: Mapping[str, str]) -> list[str]:
    known = [row for row in seconds if row.ratio is not None or row.bound in ("at_most", "at_least")]
    faster = [row for row in known if _is_faster(row)]
    if not known or {row.arm for row in faster} == {row.arm for row in rows if row.verdict == "better"}:
        return []
    if len(rows) == 1:
        (row,) = known
        how = "clearly faster" if faster else "clearly slower" if _is_slower(row) else "not clearly faster"
        return [f"In wall-clock time, {labels[row.arm]} is {how}: {format_speedup(row)}."]
    if not faster:
        return [f"In wall-clock time, none of the {len(known)} arms is clearly faster."]
    fastest = max(faster, key=lambda row: row.ratio or 0.0)
    shown = f"{labels[fastest.arm]}, {format_speedup(fastest)}"
    if len(faster) == 1:
        return [f"In wall-clock time, 1 of {len(known)} arms is clearly faster: {shown}."]
    return [f"In wall-clock time, {len(faster)} of {len(known)} arms are clearly faster; the fastest is {shown}."]


def _is_faster(row: SpeedUp) -> bool:
    return row.low is not None and row.low > 1 and row.p_holm is not None and row.p_holm < SIGNIFICANT


def _is_slower(row: SpeedUp) -> bool:
    return row.high is not None and row.high < 1 and row.p_holm is not None and row.p_holm < SIGNIFICANT
