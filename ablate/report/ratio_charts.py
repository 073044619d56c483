"""The charts of speedups: at the headline's target, against the target, and along a numeric axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ablate.analysis.speedup import SpeedUp
from ablate.analysis.trend import Trend
from ablate.report.chart import ROWS, Chart, declare, mark_no_difference, round_number
from ablate.report.chart_parts import choose_axis, choose_lines, color_of, dash_of, list_legend
from ablate.report.encoding import Look, Scales, collect_scales
from ablate.report.forest import ARROW_DOWN, ARROW_UP, ForestRow, chart_forest, ratio_axis, ratio_of
from ablate.report.notation import (
    AXIS_NAMES,
    elide,
    format_speedup,
    format_target,
    label_targets,
    shorten_target,
)
from ablate.report.palette import LIGHT
from ablate.report.report import Report
from ablate.report.scale import name_family
from ablate.tracking.arm_labels import find_shared

if TYPE_CHECKING:
    import altair as alt

_BOUNDS = "an open arrow marks a bound"
_CLEAR, _UNCLEAR = "interval excludes 1", "interval includes 1, or a bound"


def chart_speedups(report: Report) -> Chart:
    """The speedup of each arm to the headline's target, the largest first, by axis of cost."""
    choice = choose_axis(report)
    goal = format_target(report.options.headline, report.metric)
    rows = {
        axis: [
            ForestRow(
                name=report.looks[row.arm].short,
                panel=report.looks[row.arm].panel,
                group=_CLEAR if _is_clear(row) else _UNCLEAR,
                value=value,
                low=row.low,
                high=row.high,
                text=format_speedup(row),
                arm=row.arm,
                bound="" if row.ratio is not None else row.bound or "",
            )
            for row in sorted(report.headline_rows, key=lambda row: -(_value(row) or 0.0))
            if row.axis == axis and (value := _value(row)) is not None
        ]
        for axis in choice.options
    }
    return chart_forest(
        "speedup",
        f"Speedup of each arm to {goal}, with unadjusted 95 % intervals; {_BOUNDS}",
        rows,
        {axis: f"speedup in {AXIS_NAMES[axis]} to {goal}" for axis in rows},
        {_CLEAR: LIGHT.lines[1], _UNCLEAR: LIGHT.lines[0]},
        choice,
        report.scales.panels,
        is_ratio=True,
    )


def chart_ladder(report: Report) -> Chart:
    """Speedup against target. Lines join neighboring ratios, and never touch a bound."""
    place = {target: float(i) for i, target in enumerate(report.options.targets)}
    results, note = choose_lines(report)
    arms = {arm: i for i, arm in enumerate(results.compared_arms)}
    looks = {arm: report.looks[arm] for arm in arms}
    data, fills = {}, {}
    for axis in choose_axis(report).options:
        rows = [row for row in report.rows if row.axis == axis and row.arm in arms]
        lines: dict[str, list[tuple[float, SpeedUp]]] = {arm: [] for arm in arms}
        for row in rows:
            lines[row.arm].append((place[row.target] + _dodge(arms[row.arm], len(arms), 0.4), row))
        data[axis] = [item for arm, points in lines.items() for item in _join(points, report, arm, report.labels[arm])]
        fills[axis] = _fill_ratios(axis, rows)
    ticks = tuple(shorten_target(target) for target in place)
    return Chart(
        "ladder",
        f"Speedup against target, with unadjusted 95 % intervals; {_BOUNDS}. A target is "
        f"{label_targets(report.options.targets, report.metric)}{note}",
        _declare(collect_scales(looks), "target", ticks, report.scales.panels),
        data,
        fills,
        (choose_axis(report),),
        legend=list_legend(looks),
        columns=min(2, len(report.scales.panels)),
    )


def chart_growth(report: Report, name: str, trends: Sequence[Trend]) -> Chart:
    """The speedup along a numeric axis of `compare_within`, one line per family of arms."""
    levels = sorted({level for trend in trends for level in trend.levels})
    place, looks = {level: float(i) for i, level in enumerate(levels)}, _find_looks(report)
    data, fills, shared = {}, {}, find_shared(report.record.arms)
    for axis in choose_axis(report).options:
        rows = {row.arm: row for row in report.rows if (row.axis, row.target) == (axis, "final")}
        items = []
        for i, trend in enumerate(trends):
            points = [
                (place[level] + _dodge(i, len(trends), 0.3), rows[arm])
                for level, arm in zip(trend.levels, trend.arms, strict=True)
            ]
            name_of = name_family(trend.family, shared)
            items += [row | {"panel": ""} for row in _join(points, report, trend.arms[-1], name_of)]
        data[axis] = items
        fills[axis] = _fill_ratios(axis, list(rows.values()))
    along = trends[0].along
    return Chart(
        name,
        f"Speedup to the baseline's final {report.metric.short} along {along}, with unadjusted 95 % intervals; "
        f"{_BOUNDS}",
        _declare(collect_scales(looks), along, tuple(f"{level:g}" for level in levels), ("",)),
        data,
        fills,
        (choose_axis(report),),
        legend=list_legend(looks),
    )


def _find_looks(report: Report) -> Mapping[str, Look]:
    """The looks of the compared arms. A baseline has no speedup, so it has no line."""
    return {arm: report.looks[arm] for arm in report.results.compared_arms}


def _is_clear(row: SpeedUp) -> bool:
    """Whether the interval excludes 1. A bound is never clear: it has none."""
    return row.low is not None and row.high is not None and row.ratio is not None and not row.low <= 1 <= row.high


def _value(row: SpeedUp) -> float | None:
    """The value to draw: the ratio, or the value of the bound."""
    if row.ratio is not None:
        return row.ratio
    return row.high if row.bound == "at_most" else row.low if row.bound == "at_least" else None


def _dodge(place: int, n: int, width: float) -> float:
    """A shift to the side, so that the intervals of `n` lines do not overlap."""
    return width * (place / (n - 1) - 0.5) if n > 1 else 0.0


def _fill_ratios(axis: str, rows: Sequence[SpeedUp]) -> dict[str, Any]:
    ends = [end for row in rows for end in (row.low, row.high, row.ratio)]
    return {"data": (axis,), "ratio_title": f"speedup in {AXIS_NAMES[axis]}", **ratio_axis(ends)}


def _join(points: Sequence[tuple[float, SpeedUp]], report: Report, arm: str, name: str) -> list[dict[str, Any]]:
    """One row per point. A bound begins another piece of the line, so that nothing joins it."""
    look, piece, rows = report.looks[arm], 0, []
    for x, row in points:
        value = _value(row)
        piece += row.ratio is None
        if value is not None:
            rows.append(
                {
                    "arm": arm,
                    "name": elide(name, 44),
                    "hue": look.hue,
                    "style": look.style,
                    "panel": look.panel,
                    "piece": f"{arm} {piece}",
                    "bound": "" if row.ratio is not None else row.bound,
                    "x": round(x, 3),
                    "value": round_number(value),
                    "low": round_number(row.low),
                    "high": round_number(row.high),
                    "text": format_speedup(row),
                }
            )
    return rows


@cache
def _declare(scales: Scales, title: str, ticks: tuple[str, ...], panels: tuple[str, ...]) -> Mapping[str, Any]:
    import altair as alt

    axis = alt.Axis(values=list(range(len(ticks))), labelExpr=f"{list(ticks)!r}[datum.value]", grid=False)
    x = alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(domain=[-0.4, len(ticks) - 0.6], nice=False))
    y, color, dash = ratio_of("value", alt.Y), color_of(scales), dash_of(scales)
    arrows = alt.Scale(domain=["at_most", "at_least"], range=[ARROW_DOWN, ARROW_UP])
    tips = [alt.Tooltip("name:N", title="arm"), alt.Tooltip("text:N", title="speedup")]
    base = alt.Chart(alt.NamedData(ROWS))
    known, bounds = base.transform_filter("datum.bound == ''"), base.transform_filter("datum.bound != ''")
    layers: list[alt.Chart] = [
        mark_no_difference().encode(y=alt.datum(1)),
        known.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=1.6)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color, tooltip=tips),
        known.mark_line(strokeWidth=1.8).encode(x=x, y=y, detail="piece:N", color=color, strokeDash=dash),
        known.mark_point(filled=True, opacity=1, size=55).encode(x=x, y=y, color=color, tooltip=tips),
        bounds.mark_point(filled=False, opacity=1, size=110, strokeWidth=1.6).encode(
            x=x, y=y, color=color, shape=alt.Shape("bound:N", scale=arrows, legend=None), tooltip=tips
        ),
    ]
    return declare(alt.layer(*layers), 320, panels)
