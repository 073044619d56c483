"""The sections of a report's page, in their order: evidence first, then detail. Every format is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ablate.formatting import count
from ablate.report.chart import Chart, Legend
from ablate.report.contrast_charts import chart_differences, chart_effects, chart_interactions
from ablate.report.curve_charts import chart_curves, chart_minus_baseline
from ablate.report.diagnostic_charts import chart_diagnostics
from ablate.report.document import Block, Code, Document, Facts, Folded, Section, Text
from ablate.report.effect_tables import (
    tabulate_differences,
    tabulate_effects,
    tabulate_importance,
    tabulate_trends,
)
from ablate.report.evaluation_tables import MOST_ROWS, count_verdicts
from ablate.report.looks import tabulate_looks
from ablate.report.notation import format_size, join_with_and
from ablate.report.ratio_charts import chart_growth, chart_ladder, chart_speedups
from ablate.report.report import Report
from ablate.report.scale import tabulate_predictions, tabulate_scaling
from ablate.report.table import Table
from ablate.report.tables import (
    evaluation_tables,
    tabulate_arms,
    tabulate_cost,
    tabulate_fairness,
    tabulate_full_schedules,
    tabulate_ladder,
    tabulate_mishaps,
    tabulate_speedups,
)
from ablate.report.verifications import describe_verification, list_blocks
from ablate.tracking.arm_labels import find_shared


def _compare(report: Report) -> Iterator[Block]:
    if not report.headline_rows:
        yield tabulate_arms(report)
        return
    yield tabulate_speedups(report)
    yield tabulate_full_schedules(report)
    if report.differences:
        yield Folded("The numbers behind the verdicts", (tabulate_differences(report),))
    yield tabulate_looks(report)


def _verify(report: Report) -> Iterable[Block]:
    return list_blocks(report.verifications, report.difference_of)


def _show_curves(report: Report) -> Iterator[Block]:
    yield chart_curves(report)
    yield chart_minus_baseline(report)
    if report.headline_rows:
        yield tabulate_arms(report)


def _show_speedups(report: Report) -> Iterator[Block]:
    if not report.headline_rows:
        return
    yield Text(
        f"A speedup is the cost at which the baseline reaches {report.metric.indefinite}, divided by the cost at which "
        "the arm reaches it. Above 1, the arm needs less. Runs are paired by seed; a note says where the seeds do not "
        "match."
    )
    yield chart_speedups(report)
    yield from (chart_growth(report, name, trends) for name, trends in report.growth_figures.items())
    yield tabulate_trends(report)
    shared = find_shared(report.record.arms)
    yield tabulate_predictions(report.predictions, report.metric, shared)
    yield tabulate_scaling(report.scaling_laws, report.metric, shared)
    yield chart_ladder(report)
    yield Folded("Speedups at each target", (tabulate_ladder(report),))


def _show_effects(report: Report) -> Iterator[Block]:
    yield chart_interactions(report)
    yield chart_effects(report)
    if report.effects:
        yield Folded("The numbers of the effects", (tabulate_effects(report),))
    yield tabulate_importance(report)


def _show_evaluations(report: Report) -> Iterator[Block]:
    tables = evaluation_tables(report)
    if any(len(table.rows) > MOST_ROWS for table in tables):
        yield count_verdicts(report.evaluations, report.labels)
    for table in tables:
        is_long = len(table.rows) > MOST_ROWS
        yield Folded(f"{table.caption}: {len(table.rows)} rows", (table,)) if is_long else table


def _show_mishaps(report: Report) -> Iterator[Block]:
    if report.mishaps:
        yield tabulate_mishaps(report)
    else:
        yield Text("No gaps: every run finished its budget, and every curve is complete.")


def _reproduce(report: Report) -> Iterator[Block]:
    if report.command:
        yield Code(report.command)
    made = {"trained with": f"ablate {report.record.version}"} if report.record.version else {}
    yield Facts(made | dict(report.versions) | {f"data {name}": text for name, text in report.data_facts.items()})


SECTIONS: tuple[tuple[str, str, Callable[[Report], Iterable[Block]]], ...] = (
    ("comparison", "Comparison", _compare),
    ("verification", "Verification with fresh seeds", _verify),
    ("curves", "Training curves", _show_curves),
    ("speedups", "Speedups", _show_speedups),
    ("effects", "Effects and interactions", _show_effects),
    ("evaluations", "Evaluations", _show_evaluations),
    ("diagnostics", "Diagnostics", lambda report: [chart_diagnostics(report)]),
    ("fairness", "Fairness", lambda report: [tabulate_fairness(report)]),
    ("cost", "Cost", lambda report: [tabulate_cost(report)]),
    ("failures", "Failures, divergences and damaged curves", _show_mishaps),
    ("reproduce", "How to reproduce this study", _reproduce),
)
"""The anchor, the title and the blocks of each section. Empty blocks, and sections without blocks, are left out."""


def compose(report: Report) -> Document:
    """The page of a report."""
    record = report.record
    sections = []
    for name, title, make in SECTIONS:
        blocks = tuple(block for block in make(report) if not _is_empty(block))
        if blocks:
            sections.append(Section(name, title, blocks))
    return Document(
        name=record.study,
        context=describe_context(report),
        heading=record.question or record.study,
        verdict=(*report.verdict, *map(describe_verification, report.verifications)),
        answer=report.answer,
        sections=tuple(sections),
        lead=chart_differences(report) if report.differences else None,
        notice=""
        if report.is_complete
        else "This study is not finished: runs that are still training are left out of every number.",
        arms={arm: Legend(report.labels[arm], look.color, look.dash) for arm, look in report.looks.items()},
    )


def describe_context(report: Report) -> str:
    """One line about what was compared: study, size, data, budget, seeds, devices and commit.

    A run of ablate records the commit of ablate, and an imported run that of its own program.
    """
    sizes = [arm.n_params for arm in report.arms if arm.n_params]
    tokens = [arm.n_tokens for arm in report.arms if arm.n_tokens]
    source, tokenizer = (report.record.data.get(key) for key in ("source", "tokenizer"))
    seeds = len({run.seed for run in report.results.runs})
    devices = dict.fromkeys(arm.device for arm in report.arms if arm.device)
    commits = [commit[:7] for commit in report.versions.get("commit", "").split(", ") if commit]
    is_own = all(
        "ablate" in run.manifest.get("versions", ()) for run in report.results.runs if run.manifest.get("commit")
    )
    parts = [
        report.record.study,
        *([f"{_span(sizes)} parameters"] if sizes else []),
        *([f"{source} ({tokenizer})" if tokenizer else str(source)] if source else []),
        *([f"{_span(tokens)} tokens"] if tokens else []),
        count(seeds, "seed"),
        *([join_with_and(list(devices))] if devices else []),
        *([f"{'ablate' if is_own else 'commit'} {join_with_and(commits)}"] if 0 < len(commits) < 3 else []),
    ]
    return " · ".join(parts)


def _span(sizes: list[int]) -> str:
    low, high = format_size(min(sizes)), format_size(max(sizes))
    return low if low == high else f"{low} to {high}"


def _is_empty(block: Block) -> bool:
    if isinstance(block, Table):
        return not block.rows
    if isinstance(block, Facts):
        return not block.facts
    return isinstance(block, Chart) and block.is_empty
