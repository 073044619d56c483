"""What the charts of a report share: the choice of the axis of cost, scales, legends and panels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ablate.analysis.results import Results
from ablate.analysis.selection import keep_runs
from ablate.report.chart import Choice, Legend
from ablate.report.encoding import OTHER, Look, Scales
from ablate.report.finding import rank_arms
from ablate.report.notation import AXIS_NAMES
from ablate.report.report import Report

if TYPE_CHECKING:
    import altair as alt

HEIGHT = 320
"""Pixels of a panel."""

LINEAR, LOG = {"type": "linear", "nice": False, "zero": False}, {"type": "log", "nice": False}


MOST_LINES = 100
"""The most arms, besides baselines, in a chart with a line per arm. Its page's tables have the others."""


def choose_lines(report: Report) -> tuple[Results, str]:
    """What a chart with a line per arm draws, and the end of its caption. Of many arms, it draws the best."""
    results = report.results
    n_arms = len(results.arms)
    if n_arms <= MOST_LINES:
        return results, ""
    ranked = rank_arms(report.differences, results.compared_arms, report.metric)
    best = [*dict.fromkeys((*ranked, *results.arms))][:MOST_LINES]
    chosen = keep_runs(results, [run for arm in best for run in results.runs_of(arm)])
    return chosen, f". Of {n_arms:,} arms, it shows the best {MOST_LINES} and their baselines"


def choose_axis(report: Report) -> Choice:
    order = sorted(report.axes, key=lambda axis: axis != report.axis)  # the headline's axis first
    return Choice("axis", "Axis of cost", {axis: AXIS_NAMES[axis] for axis in order}, is_shared=True)


def identify(look: Look, label: str, arm: str) -> dict[str, Any]:
    return {"arm": arm, "name": label, "hue": look.hue, "style": look.style, "panel": look.panel}


def count_columns(report: Report) -> int:
    return min(2, len(report.scales.panels))


def list_legend(looks: Mapping[str, Look]) -> tuple[Legend, ...]:
    """One line per look, with the name of its arms."""
    lines = dict.fromkeys(
        (OTHER if look.hue == OTHER else look.short, look.color, look.dash) for look in looks.values()
    )
    return tuple(Legend(*line) for line in lines)


def color_of(scales: Scales) -> alt.Color:
    """The encoding of the color, with the same scale in every chart."""
    import altair as alt

    scale = alt.Scale(domain=[hue for hue, _ in scales.hues], range=[color for _, color in scales.hues])
    return alt.Color("hue:N", scale=scale, legend=alt.Legend(title="$legend"))


def dash_of(scales: Scales) -> alt.StrokeDash:
    """The encoding of the dash, with the same scale in every chart."""
    import altair as alt

    dashes = [list(dash) or [1, 0] for _, dash in scales.styles]
    scale = alt.Scale(domain=[style for style, _ in scales.styles], range=dashes)
    has_several = len(scales.styles) > 1
    return alt.StrokeDash("style:N", scale=scale, legend=alt.Legend(title="$legend") if has_several else None)


def x_of() -> alt.X:
    import altair as alt

    label = "datum.label === '' ? '' : format(datum.value, '~s')"
    ticks = alt.Axis(labelExpr=label, tickCount=6, labelSeparation=6)
    return alt.X("$x:Q", title="$x_title", axis=ticks, scale=alt.Scale(nice=False, zero=False))


def y_of(field: str) -> alt.Y:
    import altair as alt

    return alt.Y(f"{field}:Q", title="$y_title", scale=alt.Scale(zero=False, nice=False))


def blank_scale(spec: Any) -> Any:
    """Make the horizontal scale a blank, which Altair does not allow."""
    if isinstance(spec, dict):
        return {
            key: {**value, "scale": "$x_scale"}
            if key == "x" and isinstance(value, dict) and "scale" in value
            else blank_scale(value)
            for key, value in spec.items()
        }
    return [blank_scale(item) for item in spec] if isinstance(spec, list) else spec
