"""The chart of diagnostics: quantities that the variants record while they train."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ablate.report.chart import ROWS, Chart, Choice, declare, round_list
from ablate.report.chart_parts import (
    HEIGHT,
    choose_axis,
    choose_lines,
    color_of,
    count_columns,
    dash_of,
    identify,
    list_legend,
    x_of,
)
from ablate.report.encoding import Scales
from ablate.report.notation import AXIS_NAMES
from ablate.report.report import Report
from ablate.report.thinned_curves import thin_diagnostics


def chart_diagnostics(report: Report) -> Chart:
    """Quantities that the variants record, one line per arm and layer; deeper layers are more opaque."""
    results, note = choose_lines(report)
    groups = thin_diagnostics(results, report.axes)
    data: dict[str, list[dict[str, Any]]] = {}
    fills: dict[str, dict[str, Any]] = {}
    for group, curves in groups.items():
        data[group] = [
            {
                **identify(report.looks[curve.arm], report.labels[curve.arm], curve.arm),
                "kind": "layer",
                "seed": f"layer {layer}" if layer else "",
                "line": f"{curve.arm} {layer}",
                "depth": (depth + 1) / len(curve.layers),
                **costs,
                "y": round_list(values),
            }
            for curve in curves
            for costs in [{axis: round_list(cost) for axis, cost in curve.costs.items()}]
            for depth, (layer, values) in enumerate(curve.layers.items())
        ]
        for axis in choose_axis(report).options:
            fills[f"{axis}|{group}"] = {
                "data": (group,),
                "x": axis,
                "x_title": AXIS_NAMES[axis],
                "y_title": group,
            }
    caption = f"Quantities that the variants record, averaged over seeds; deeper layers are more opaque{note}"
    return Chart(
        "diagnostics",
        caption,
        _declare_diagnostics(report.scales),
        data,
        fills,
        (choose_axis(report), Choice("diagnostic", "Diagnostic", {group: group for group in groups})),
        legend=list_legend(report.looks),
        columns=count_columns(report),
    )


@cache
def _declare_diagnostics(scales: Scales) -> Mapping[str, Any]:
    import altair as alt

    lines = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_line(clip=True, strokeWidth=1.6)
        .encode(
            x=x_of(),
            y=alt.Y("y:Q", title="$y_title", scale=alt.Scale(zero=False)),
            detail="line:N",
            color=color_of(scales),
            strokeDash=dash_of(scales),
            opacity=alt.Opacity("depth:Q", scale=alt.Scale(domain=[0, 1], range=[0.25, 1]), legend=None),
            tooltip=[alt.Tooltip("name:N", title="arm"), alt.Tooltip("seed:N", title="of")],
        )
    )
    return declare(alt.layer(lines), HEIGHT, scales.panels, has_own_ranges=True)
