"""The tables of effects: growth along an axis, differences of arms, effects of a factorial, and importance."""

from __future__ import annotations

from ablate.analysis.effects import FINAL, Effect
from ablate.metrics import Metric
from ablate.report.growth_and_interactions import format_growth, format_loss_change, name_family
from ablate.report.notation import AXIS_NAMES, DASH, capitalize, format_p_value
from ablate.report.report import Report
from ablate.report.table import Table

_ADJUSTED = "The p-values are adjusted by Holm's method; the intervals are not."


def tabulate_trends(report: Report) -> Table:
    """The growth of the speedups along a numeric axis, on all axes of cost."""
    rows = {(trend.along, name_family(trend)): trend for trend in report.trends if trend.axis == report.axis}
    cells = {(trend.along, name_family(trend), trend.axis): format_growth(trend) for trend in report.trends}
    lines = tuple(
        (
            family,
            along,
            ", ".join(f"{level:g}" for level in trend.levels),
            *(cells[along, family, axis] for axis in report.table_axes),
            format_p_value(trend.p_value),
            format_loss_change(trend),
        )
        for (along, family), trend in rows.items()
    )
    notes = dict.fromkeys(f"{name_family(trend)}: {trend.note}" for trend in report.trends if trend.note)
    how = (
        "The growth is the speedup at the last level divided by that at the first, from a straight line in the "
        "logarithms, paired by seed. The p-value is for no growth in "
        f"{AXIS_NAMES[report.axis]}, not adjusted. The last column is the change, over the same levels, in the "
        f"difference of {_name_finals(report.metric)}. A bound is the mean of the seeds' own limits and has "
        "their noise."
    )
    last = "Loss difference" if report.metric.is_loss else f"{report.metric.name} difference"
    header = ("Arm", "Along", "Levels", *(AXIS_NAMES[axis] for axis in report.table_axes), "p", last)
    caption = f"Growth of the speedup to the baseline's final {report.metric.short}, with 95 % intervals"
    return Table("trends", caption, header, lines, "\n".join((how, *notes)))


def _name_finals(metric: Metric) -> str:
    what = "losses" if metric.is_loss else f"values of {metric.name}"
    return f"final {what}, arm minus baseline{' (nats)' if metric.is_loss else ''}"


def tabulate_differences(report: Report) -> Table:
    metric = report.metric
    difference = "Difference (nats)" if metric.is_loss else f"Difference in {metric.name}"
    header = ("Arm", "Baseline", difference, "95 % interval", "p (Holm)", "Pairs")
    rows = tuple(
        (report.labels[effect.arm], report.labels[effect.baseline], *_write_effect(effect), str(effect.n))
        for effect in report.differences
    )
    note = f"{capitalize(explain_sign(metric))}. Runs are paired by seed. {_ADJUSTED}"
    return Table("differences", caption_differences(report), header, rows, note)


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
    header = ("Levels", "Outcome", "Effect", "95 % interval", "p (Holm)")
    rows = tuple(
        (name_levels(effect), _name_outcome(effect, report.metric), *_write_effect(effect)) for effect in report.effects
    )
    caption = "Effects of the axes: main effects and two-way interactions, averaged over the other axes"
    note = (
        "Effects are relative to the baseline's levels, by least squares with the seed as a block. Effects on costs "
        f"are in the natural logarithm. {_ADJUSTED}"
    )
    return Table("effects", caption, header, rows, note)


def name_levels(effect: Effect) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{axis}={level}" for axis, level in effect.levels.items())


def _name_outcome(effect: Effect, metric: Metric) -> str:
    if effect.outcome == FINAL:
        return f"final {metric.short}"
    return f"log {AXIS_NAMES[effect.outcome.removeprefix('log_')]}"


def _write_effect(effect: Effect) -> tuple[str, str, str]:
    is_known = effect.low is not None and effect.high is not None
    interval = f"[{effect.low:+.4f}, {effect.high:+.4f}]" if is_known else DASH
    return f"{effect.estimate:+.4f}", interval, format_p_value(effect.p_holm)


def tabulate_importance(report: Report) -> Table:
    rows = tuple((line.axis, f"{100 * line.importance:.0f} %", str(line.n)) for line in report.importance)
    note = (
        "PED-ANOVA: how clearly an axis separates the best settings from the others; all axes together are 100 %. "
        "It shows which axis to look at, not how much a level helps."
    )
    header, metric = ("Axis", "Importance", "Arms"), report.metric
    return Table("importance", f"Importance of the axes for a {metric.wanted} final {metric.short}", header, rows, note)
