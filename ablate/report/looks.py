"""What a report says about the looks that decided on seeds: those of `until: decided`, and those by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ablate.analysis.differences import Difference
from ablate.analysis.looks import UNDECIDED, Course, Look
from ablate.analysis.peeking import false_positive_rate, find_larger_looks, find_peeks
from ablate.analysis.results import Results
from ablate.analysis.spending import POWER
from ablate.analysis.verdicts import ALPHA
from ablate.formatting import count
from ablate.report.notation import DASH, format_signed, join_with_and
from ablate.report.table import Table
from ablate.tracking.study_record import SeedRule, StudyRecord

if TYPE_CHECKING:
    from ablate.report.report import Report


def describe_seeds(results: Results, course: Course | None, differences: Sequence[Difference]) -> Iterator[str]:
    """The sentences of the answer about how the number of seeds was decided. None if it was fixed from the start."""
    rule = results.record.seed_rule
    if rule is not None and course is not None:
        yield _describe_rule(rule, course, differences)
        if _differ(results.record, course):
            yield "The looks that were noted while the study trained differ from those that its curves give now."
    yield from _describe_peeks(results)


def _describe_rule(rule: SeedRule, course: Course, differences: Sequence[Difference]) -> str:
    begin = f"Arms got seeds until they were decided, with a look after each of {rule.at_least} to {rule.at_most} seeds"
    if not course.looks:
        return f"{begin}. No look has taken place yet, so no arm has a verdict."
    decided = [row for row in differences if row.verdict != UNDECIDED and row.n_seeds is not None]
    used = sorted({row.n_seeds for row in decided if row.n_seeds is not None})
    n_open = sum(map(len, course.open.values()))
    n_left = len(differences) - len(decided) - n_open
    parts = []
    if decided:
        span = str(used[0]) if len(used) == 1 else f"{used[0]} to {used[-1]}"
        parts.append(f"{count(len(decided), 'arm')} {_is(decided)} decided, after {span} seeds")
    if n_open:
        # They may get no more: by another metric, they left the study earlier.
        parts.append(f"{count(n_open, 'arm')} {'is' if n_open == 1 else 'are'} undecided before all {rule.at_most}")
    if n_left > 0:
        parts.append(f"{n_left} {'stays' if n_left == 1 else 'stay'} undecided after all {rule.at_most}")
    return (
        f"{begin}: {join_with_and(parts)}. Intervals and p-values of differences hold over all looks. Estimates of "
        "arms that stopped early are on average too far from zero. Speedups, evaluations and effects of axes do not "
        "account for looks."
    )


def _is(rows: Sequence[Difference]) -> str:
    return "is" if len(rows) == 1 else "are"


def _differ(record: StudyRecord, course: Course) -> bool:
    """Tell whether the looks in the record have other verdicts than those of the curves."""
    noted = {(look["baseline"], look["seeds"]): _verdicts(look) for look in record.looks}
    now = {(look.baseline, look.seeds): _verdicts(look.to_dict()) for look in course.looks}
    return any(now.get(key, verdicts) != verdicts for key, verdicts in noted.items())


def _verdicts(look: Mapping[str, Any]) -> dict[str, str]:
    return {row["arm"]: row["verdict"] for row in look["arms"]}


def _describe_peeks(results: Results) -> Iterator[str]:
    """Say that the number of seeds changed after a look at the results, and how often such looks find a difference by
    chance."""
    peeks, larger = find_peeks(results.record), find_larger_looks(results.record)
    if not peeks and not larger:
        return
    n_arms = max(Counter(map(results.baseline_of, results.compared_arms)).values(), default=1)
    if results.record.seed_rule is not None:
        looks = (*peeks, *larger)
        rate = false_positive_rate(n_arms, looks)
        yield (
            f"The rule for seeds was declared after a look at the results of {_list_seeds(looks)}. It does not account "
            f"for that: such a look alone finds a difference in {100 * rate:.1f} % of simulated studies that have none."
        )
        return
    n_now = len({run.seed for run in results.record.runs})
    rate, once = (false_positive_rate(n_arms, looks) for looks in ((*peeks, n_now, *larger), (n_now,)))
    parts = []
    if larger:
        parts.append(f"A report of {_list_seeds(larger)} was seen before. This one has {n_now}: it leaves some out.")
    if peeks:
        parts.append(f"Seeds were added after a look at the results of {_list_seeds(peeks)}.")
    parts.append(
        "Verdicts, intervals and p-values do not account for that: such looks find a "
        f"difference in {100 * rate:.1f} % of simulated studies that have none, instead of {100 * once:.1f} %."
    )
    yield " ".join(parts)


def _list_seeds(peeks: Sequence[int]) -> str:
    return f"{join_with_and([str(n) for n in peeks])} {'seed' if peeks == (1,) else 'seeds'}"


def tabulate_looks(report: Report) -> Table:
    """One row per look at each baseline's arms."""
    header = ("Seeds", "Error rate spent", "Arms judged", "Decided", "Undecided")
    several = len({look.baseline for look in report.seed_looks}) > 1
    rows = tuple(_write_look(look, report, several=several) for look in report.seed_looks)
    rule = report.record.seed_rule
    total = "" if rule is None else f" {ALPHA:.2g} (n / {rule.at_most})^{POWER:g} after n seeds"
    note = (
        f"The error rate, of all arms of a baseline and all looks together, is spent as{total}. The interval at a look "
        "is simultaneous, and holds at all looks."
    )
    return Table(
        "looks",
        "Looks: after how many seeds each arm was decided",
        ("Baseline", *header) if several else header,
        rows,
        note,
    )


def _write_look(look: Look, report: Report, *, several: bool) -> tuple[str, ...]:
    decided = [
        f"{report.labels[row.arm]} {row.verdict}: {format_signed(row.estimate, row.low, row.high)}"
        for row in look.arms
        if row.verdict != UNDECIDED and row.estimate is not None
    ]
    n_open = sum(row.verdict == UNDECIDED for row in look.arms)
    cells = (str(look.seeds), f"{look.spent:.4f}", str(len(look.arms)), "; ".join(decided) or DASH, str(n_open))
    return (report.labels[look.baseline], *cells) if several else cells


def summarize_looks(report: Report) -> dict[str, Any]:
    """The keys of `summary.json` about looks; empty if their number was fixed, without a look in between."""
    found: dict[str, Any] = {}
    if report.record.seed_rule is not None:
        found["seed_rule"] = report.record.seed_rule.to_dict()
        found["looks"] = [look.to_dict() for look in report.seed_looks]
    peeks = find_peeks(report.record)
    if peeks:
        found["peeks"] = list(peeks)
    return found
