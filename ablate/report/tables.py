"""The tables of a report as cells of text, which the HTML page, Markdown, LaTeX and the terminal share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ablate.analysis.capabilities import Capability
from ablate.analysis.differences import Difference
from ablate.analysis.fairness import Fairness
from ablate.formatting import format_number
from ablate.report.effect_tables import (
    describe_differences,
    explain_verdicts,
    name_difference,
)
from ablate.report.evaluation_tables import (
    summarize_evaluations,
    tabulate_capabilities,
    tabulate_evaluations,
)
from ablate.report.finding import format_difference, format_verdict
from ablate.report.notation import (
    AXIS_NAMES,
    DASH,
    capitalize,
    explain_targets,
    format_bytes,
    format_p_value,
    format_ratio,
    format_size,
    format_speedup,
    format_spread,
    format_target,
    format_time,
    join_with_and,
    shorten_target,
)
from ablate.report.report import Report
from ablate.report.table import Table, merge_costs, shorten_table

BITS = "Bits per byte"
"""The unit of compression if tokens are bytes."""

STEP_TIME, VERDICT, P_VALUE = "Step time ratio", "Verdict", "p"
"""Columns next to the speedups: time per step over the baseline's, and the verdict with its simultaneous p-value."""


def tabulate_speedups(report: Report) -> Table:
    """The verdict on each arm, then its speedups on all axes of cost, with the time per step that links them."""
    compared = report.results.compared_arms
    summaries = {arm.arm: arm for arm in report.arms}
    main = {arm: report.headline_of(arm)[report.axis] for arm in compared}
    baselines = {row.baseline for row in main.values()}
    verdicts = [_write_verdict(report.difference_of.get(arm)) for arm in compared]
    flags = {line.arm: "; ".join(line.flags) for line in report.fairness}
    columns = {
        "Arm": [report.labels[arm] for arm in compared],
        **({"Baseline": [report.labels[row.baseline] for row in main.values()]} if len(baselines) > 1 else {}),
        name_difference(report.metric): [cells[0] for cells in verdicts],
        VERDICT: [cells[1] for cells in verdicts],
        P_VALUE: [cells[2] for cells in verdicts],
        **merge_costs(
            {axis: [format_speedup(report.headline_of(arm)[axis]) for arm in compared] for axis in report.table_axes}
        ),
        STEP_TIME: [format_ratio(summaries[arm].step_ratio) for arm in compared],
        "Reached": [f"{row.n_reached}/{row.n_pairs}" for row in main.values()],
        **({"Flags": [flags.get(arm) or "none" for arm in compared]} if any(flags.values()) else {}),
    }
    over = f" over {report.labels[next(iter(baselines))]}" if len(baselines) == 1 else ""
    goal = format_target(report.options.headline, report.metric)
    caption = (
        f"{capitalize(describe_differences(report.metric))}, with simultaneous 95 % intervals, and speedup{over} to "
        f"{goal}, with unadjusted ones"
    )
    notes = (*explain_verdicts(report), *_collect_notes(report).splitlines())
    table = Table("speedup", caption, tuple(columns), tuple(zip(*columns.values(), strict=True)), "\n".join(notes))
    return _leave_out_unknown(table, (STEP_TIME,))


def _write_verdict(difference: Difference | None) -> tuple[str, str, str]:
    if difference is None:
        return DASH, DASH, DASH
    return format_difference(difference), format_verdict(difference), format_p_value(difference.p_simultaneous)


def _collect_notes(report: Report) -> str:
    """One line per note of the headline's rows, with the arms that it is about."""
    arms: dict[str, dict[str, None]] = {}
    for row in report.headline_rows:
        for note in filter(None, row.note.split("; ")):
            arms.setdefault(note, {})[report.labels[row.arm]] = None
    return "\n".join(f"{join_with_and(list(names))}: {note}" for note, names in arms.items())


def tabulate_ladder(report: Report) -> Table:
    """The speedup on the headline's axis at every target."""
    axis = report.axis
    header = ("Arm", *map(shorten_target, report.options.targets))
    cells = {(row.arm, row.target): format_speedup(row) for row in report.rows if row.axis == axis}
    rows = tuple(
        (report.labels[arm], *(cells[arm, target] for target in report.options.targets))
        for arm in report.results.compared_arms
    )
    share = f"the {report.metric.short} of the baseline with the same seed at that share of its budget"
    note = f"A target is {explain_targets(report.options.targets, share, report.metric)}."
    return Table("ladder", f"Speedup in {AXIS_NAMES[axis]} at each target", header, rows, note)


def tabulate_full_schedules(report: Report) -> Table:
    cells = {(row.arm, row.axis): row for row in report.full_schedule}
    arms = list(dict.fromkeys(row.arm for row in report.full_schedule))
    main = [cells[arm, report.axis] for arm in arms]
    columns = {
        "Arm": [report.labels[arm] for arm in arms],
        **merge_costs({axis: [format_speedup(cells[arm, axis]) for arm in arms] for axis in report.table_axes}),
        "Reached": [f"{row.n_reached}/{row.n_pairs}" for row in main],
    }
    note = (
        f"The budget at which the baseline would end at the arm's final {report.metric.short}, divided by the arm's "
        "budget. This is the number to quote."
    )
    caption = "Speedup between full schedules, with unadjusted 95 % intervals"
    return Table("full_schedule", caption, tuple(columns), tuple(zip(*columns.values(), strict=True)), note)


def tabulate_arms(report: Report) -> Table:
    metric, others = report.metric, report.results.other_metrics
    finals = (f"Final {metric.label}", *(f"Final {other.label}" for other in others))
    are_bytes = metric.is_loss and report.record.data.get("tokenizer") == "bytes"
    header = ("Arm", finals[0], *[BITS] * are_bytes, *finals[1:], "Runs", "Parameters", "FLOPs per token", "Tokens")
    rows = tuple(
        (
            report.labels[arm.arm],
            format_spread(arm.final_loss),
            *[DASH if arm.final_loss.mean is None else f"{arm.final_loss.mean / math.log(2):.4f}"] * are_bytes,
            *(format_spread(arm.other_metrics[other.name]) for other in others),
            f"{arm.n_finished}/{arm.n_runs}",
            format_size(arm.n_params),
            format_size(arm.flops_per_token),
            format_size(arm.n_tokens),
        )
        for arm in report.arms
    )
    better = "" if metric.is_loss else f"{metric.direction} is better, "
    unit = "nats per token, " if metric.is_loss else ""
    what = f"final {metric.label} ({unit}{better}mean ± standard deviation over seeds)"
    has_size = any(
        size is not None for arm in report.arms for size in (arm.n_params, arm.flops_per_token, arm.n_tokens)
    )
    caption = f"Arms: {what}{' and size' if has_size else ''}"
    return _leave_out_unknown(Table("arms", caption, header, rows), ("Parameters", "FLOPs per token", "Tokens"))


def tabulate_cost(report: Report) -> Table:
    header = ("Arm", "Time per step", "Tokens per second", "TFLOP/s", "Peak memory", "Device")
    rows = tuple(
        (
            report.labels[arm.arm],
            format_time(arm.step_s.mean),
            format_size(arm.tokens_per_s),
            DASH if arm.tflops_per_s is None else format_number(arm.tflops_per_s),
            format_bytes(arm.peak_memory_bytes),
            arm.device or DASH,
        )
        for arm in report.arms
    )
    caption = "Cost: training time only, without evaluation, checkpoints and compilation"
    return _leave_out_unknown(Table("cost", caption, header, rows), ("Tokens per second", "TFLOP/s", "Peak memory"))


def _leave_out_unknown(table: Table, names: Sequence[str]) -> Table:
    """The table without those of the named columns that are not known for any arm."""
    columns = zip(table.header, zip(*table.rows, strict=True), strict=True)
    kept = [(name, cells) for name, cells in columns if name not in names or {*cells} != {DASH}]
    header, cells = tuple(name for name, _ in kept), tuple(zip(*(cells for _, cells in kept), strict=True))
    return replace(table, header=header, rows=cells)


_MAY_BE_SHARED = frozenset({"Recipe", "Tokens", "Precision", "Schedule", "Backend", "Tuning"})


def tabulate_fairness(report: Report) -> Table:
    """What differs between arms. A column that is the same for all arms moves to the note: the table is wide."""
    lines = report.fairness
    is_untuned = report.untuned is not None and report.untuned.is_all
    columns = {
        "Arm": [report.labels[line.arm] for line in lines],
        "Flags": ["; ".join(line.flags) or "none" for line in lines],
        "Recipe": [line.recipe for line in lines],
        "Parameters": [format_ratio(line.params_ratio) for line in lines],
        "FLOPs per token": [format_ratio(line.flops_ratio) for line in lines],
        "Tokens": [format_size(line.horizon_tokens) for line in lines],
        "Precision": [line.precision for line in lines],
        "Schedule": [line.schedule for line in lines],
        "Crossing at": [_format_share(line.crossing_share, "steps") for line in lines],
        "Learning rate there": [_format_share(line.learning_rate_share, "peak") for line in lines],
        "Backend": [line.attention_backend for line in lines],
        "Tuning": [_format_tuning(line, is_untuned=is_untuned) for line in lines],
    }
    can_move = {name for name in _MAY_BE_SHARED if len(lines) > 1 and len(set(columns[name])) == 1}
    shared = {name: cells[0] for name, cells in columns.items() if name in can_move}
    shown = {name: cells for name, cells in columns.items() if name not in can_move}
    note = "Ratios are arm over baseline, and more than 2 % is flagged. The crossing is of the "
    note += f"baseline's final {report.metric.short}."
    if shared:
        note += f" The same for all arms: {'; '.join(f'{name.lower()} {cell}' for name, cell in shared.items())}."
    caption = "Fairness: what else differs between an arm and its baseline"
    table = Table("fairness", caption, tuple(shown), tuple(zip(*shown.values(), strict=True)), note)
    return _leave_out_unknown(table, ("Parameters", "FLOPs per token"))


def _format_share(share: float | None, whole: str) -> str:
    return DASH if share is None else f"{100 * share:.0f} % of {whole}"


def _format_tuning(line: Fairness, *, is_untuned: bool) -> str:
    """The number of trials, their values and the best value. `is_untuned`: the answer says that no arm was tuned."""
    if line.tuning_trials is None:
        return "none" if is_untuned else "not recorded"
    return f"{line.tuning_trials} trials{': ' if line.tuning else ''}{line.tuning}"


def tabulate_mishaps(report: Report) -> Table:
    header = ("Arm", "Seed", "State", "Step", "What happened")
    rows = tuple(
        (
            report.labels[m.arm],
            str(m.seed),
            m.state,
            f"{m.step}/{m.n_steps}" if m.n_steps else str(m.step),
            m.reason or DASH,
        )
        for m in report.mishaps
    )
    return Table("failures", "Runs that did not finish their budget, or whose curve is damaged", header, rows)


def evaluation_tables(report: Report) -> list[Table]:
    """The tables of evaluations and of capabilities with all rows; empty if nothing was evaluated."""
    tables = tabulate_evaluations(report.evaluations, report.labels)
    return [*_failed_evaluations(report), *tables, *_capability_tables(report, report.capabilities)]


def _failed_evaluations(report: Report) -> list[Table]:
    rows = [(report.labels[f.arm], str(f.seed), f.evaluation, f.error) for f in report.failed_evaluations]
    header = ("Arm", "Seed", "Evaluation", "What happened")
    return [Table("failed-evaluations", "Evaluations that failed", header, tuple(rows))] if rows else []


def brief_evaluation_tables(report: Report, limit: int) -> list[Table]:
    """The same for a terminal: at most `limit` results, and as many speedups that could be compared."""
    tables = tabulate_evaluations(report.evaluations, report.labels)
    if len(report.evaluations) > limit:
        tables = [summarize_evaluations(report.evaluations, report.labels, limit)]
    compared = [row for row in report.capabilities if row.speedup.n_pairs]
    further = (*_failed_evaluations(report), *_capability_tables(report, compared))
    return [*tables, *(shorten_table(table, limit) for table in further)]


def _capability_tables(report: Report, rows: Sequence[Capability]) -> list[Table]:
    losses = {arm: costs[report.axis] for arm in report.results.compared_arms if (costs := report.headline_of(arm))}
    return [tabulate_capabilities(rows, losses, report.axis, report.labels, report.metric.short)] if rows else []
