"""The tables of effects: growth along an axis, differences of arms, effects of a factorial, and importance."""

from __future__ import annotations

from ablate.analysis.effects import FINAL, Effect
from ablate.analysis.samples import MODERATED
from ablate.analysis.verdicts import ALPHA
from ablate.metrics import Metric
from ablate.report.cautions import describe_noise
from ablate.report.finding import format_verdict
from ablate.report.growth_and_interactions import format_growth, format_loss_change
from ablate.report.notation import AXIS_NAMES, DASH, capitalize, format_p_value
from ablate.report.report import Report
from ablate.report.scale import name_family
from ablate.report.table import Table, merge_costs
from ablate.tracking.arm_labels import find_shared

_TOGETHER = "Simultaneous intervals and p-values hold for all arms of a baseline together."


def tabulate_trends(report: Report) -> Table:
    """The growth of the speedups along a numeric axis, on all axes of cost."""
    shared = find_shared(report.record.arms)
    named = [(name_family(trend.family, shared), trend) for trend in report.trends]
    rows = {(trend.along, name): trend for name, trend in named if trend.axis == report.axis}
    cells = {(trend.along, name, trend.axis): format_growth(trend) for name, trend in named}
    last = f"{report.metric.heading} difference"
    columns = {
        "Arm": [family for _, family in rows],
        "Along": [along for along, _ in rows],
        "Levels": [", ".join(f"{level:g}" for level in trend.levels) for trend in rows.values()],
        **merge_costs({axis: [cells[along, family, axis] for along, family in rows] for axis in report.table_axes}),
        "p": [format_p_value(trend.p_value) for trend in rows.values()],
        last: [format_loss_change(trend) for trend in rows.values()],
    }
    notes = dict.fromkeys(f"{name}: {trend.note}" for name, trend in named if trend.note)
    how = (
        "The growth is the speedup at the last level divided by that at the first, from a straight line in the "
        "logarithms, paired by seed. The p-value is for no growth in "
        f"{AXIS_NAMES[report.axis]}, not adjusted. The last column is the change, over the same levels, in the "
        f"difference of {_name_finals(report.metric)}. A bound is the mean of the seeds' own limits and has "
        "their noise."
    )
    caption = f"Growth of the speedup to the baseline's final {report.metric.short}, with 95 % intervals"
    cells_of = tuple(zip(*columns.values(), strict=True))
    return Table("trends", caption, tuple(columns), cells_of, "\n".join((how, *notes)))


def _name_finals(metric: Metric) -> str:
    what = "losses" if metric.is_loss else f"values of {metric.short}"
    return f"final {what}, arm minus baseline{' (nats)' if metric.is_loss else ''}"


def tabulate_differences(report: Report) -> Table:
    """The numbers behind the verdicts."""
    header = (
        "Arm",
        "Baseline",
        name_difference(report.metric),
        "Simultaneous 95 % interval",
        "Unadjusted 95 % interval",
        "p",
        "Verdict",
        "Detectable",
        "Pairs",
        "Test",
    )
    rows = tuple(
        (
            report.labels[row.arm],
            report.labels[row.baseline],
            f"{row.estimate:+.4f}",
            _write_interval(row.low_simultaneous, row.high_simultaneous),
            _write_interval(row.low, row.high),
            format_p_value(row.p_simultaneous),
            format_verdict(row),
            DASH if row.detectable is None else f"{row.detectable:.4f}",
            str(row.n),
            row.method or "none: one pair",
        )
        for row in report.differences
    )
    detectable = "Detectable is the smallest difference that 80 % of studies with this scatter find."
    moderated = "A moderated test shrinks the scatter of an arm towards that of the other arms."
    notes = [f"{capitalize(explain_sign(report.metric))}.", _TOGETHER, detectable]
    if any(row.method.startswith(MODERATED) for row in report.differences):
        notes.append(moderated)
    notes += describe_noise(report.differences)
    return Table("differences", caption_differences(report), header, rows, " ".join(notes))


def name_difference(metric: Metric) -> str:
    """The header of a column of differences."""
    return f"{metric.heading} difference"


def describe_differences(metric: Metric) -> str:
    """What a difference is, with its unit."""
    return f"difference in final {metric.label}, arm minus baseline{' (nats)' if metric.is_loss else ''}"


def explain_verdicts(report: Report) -> list[str]:
    """The line below a table with verdicts: on which side an arm is better, and when it is equivalent."""
    if not report.differences:
        return []
    metric, smallest = report.metric, report.results.smallest_effect
    sides = f"Better is {metric.side} zero with a simultaneous p-value below 0.05."
    if smallest is None:
        return [f"{sides} No arm is called equivalent, because no smallest effect is given."]
    limit = f"{smallest:g}{metric.unit}"
    if report.record.seed_rule is not None:
        share = f"{100 * ALPHA:.0f} % of arms that differ by {limit} are called equivalent, over all looks"
        return [f"{sides} Equivalent: shown to be within {limit} of zero. At most {share}."]
    return [f"{sides} Equivalent: the unadjusted 90 % interval lies within {limit} of zero."]


def explain_sign(metric: Metric) -> str:
    """The side of zero on which an arm is better than its baseline."""
    return f"{metric.side} zero, the arm ends at a {metric.direction} {metric.short}"


def caption_differences(report: Report) -> str:
    """The caption of the differences, whose meaning depends on the study's design."""
    metric = report.metric
    if report.record.design == "leave_one_out":
        without = f"final {metric.label} without it minus the {metric.short} with all components"
        return f"Value of each component: {without}"
    return f"Final {metric.label}: arm minus baseline"


def tabulate_effects(report: Report) -> Table:
    header = ("Levels", "Outcome", "Effect", "Simultaneous 95 % interval", "p")
    rows = tuple(
        (name_levels(effect), _name_outcome(effect, report.metric), *_write_effect(effect)) for effect in report.effects
    )
    caption = "Effects of the axes: main effects and two-way interactions, averaged over the other axes"
    note = (
        "Effects are relative to the baseline's levels, by least squares with the seed as a block. Effects on costs "
        "are in the natural logarithm. Intervals and p-values hold for all main effects, or all interactions, together."
    )
    return Table("effects", caption, header, rows, note)


def name_levels(effect: Effect) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{axis}={level}" for axis, level in effect.levels.items())


def _name_outcome(effect: Effect, metric: Metric) -> str:
    if effect.outcome == FINAL:
        return f"final {metric.short}"
    return f"log {AXIS_NAMES[effect.outcome.removeprefix('log_')]}"


def _write_effect(effect: Effect) -> tuple[str, str, str]:
    interval = _write_interval(effect.low_simultaneous, effect.high_simultaneous)
    return f"{effect.estimate:+.4f}", interval, format_p_value(effect.p_simultaneous)


def _write_interval(low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]"


def tabulate_importance(report: Report) -> Table:
    rows = tuple((line.axis, f"{100 * line.importance:.0f} %", str(line.n)) for line in report.importance)
    note = (
        "PED-ANOVA: how clearly an axis separates the best settings from the others; all axes together are 100 %. "
        "It shows which axis to look at, not how much a level helps."
    )
    header, metric = ("Axis", "Importance", "Arms"), report.metric
    return Table("importance", f"Importance of the axes for a {metric.wanted} final {metric.short}", header, rows, note)
