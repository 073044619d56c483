"""The charts of differences: the forest plot of the verdicts, effects of axes, and interactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.analysis.effects import FINAL
from ablate.report.chart import ROWS, Chart, Legend, declare
from ablate.report.effect_tables import caption_differences, explain_sign, name_levels
from ablate.report.finding import format_difference, format_verdict
from ablate.report.forest import ForestRow, chart_forest
from ablate.report.notation import elide
from ablate.report.palette import LIGHT
from ablate.report.report import Report
from ablate.tracking.arm_labels import find_shared, label_level

VERDICT_COLORS = {
    "better": LIGHT.lines[3],
    "equivalent": LIGHT.lines[1],
    "undecided": LIGHT.lines[0],
    "worse": LIGHT.lines[2],
}


def chart_differences(report: Report) -> Chart:
    """The forest plot: the difference of each arm from its baseline with its interval, the best first."""
    metric = report.metric
    rows = [
        ForestRow(
            name=report.looks[row.arm].short,
            panel=report.looks[row.arm].panel,
            group=row.verdict,
            value=row.estimate,
            low=row.low_simultaneous,
            high=row.high_simultaneous,
            text=f"{format_difference(row)} {format_verdict(row)}",
            arm=row.arm,
        )
        for row in sorted(report.differences, key=lambda row: metric.orient(row.estimate))
    ]
    return chart_forest(
        "differences",
        f"{caption_differences(report)}, with simultaneous 95 % intervals; {explain_sign(metric)}",
        {"": rows},
        {"": f"difference in final {metric.full_label}"},
        VERDICT_COLORS,
        panels=report.scales.panels,
    )


def chart_effects(report: Report) -> Chart:
    """The effects of the axes of a factorial on the final value."""
    effects = [effect for effect in report.effects if effect.outcome == FINAL]
    rows = [
        ForestRow(
            name=name_levels(effect),
            panel="",
            group="interaction" if len(effect.levels) > 1 else "main effect",
            value=effect.estimate,
            low=effect.low_simultaneous,
            high=effect.high_simultaneous,
            text=f"{effect.estimate:+.4f}",
        )
        for effect in effects
    ]
    return chart_forest(
        "effects",
        f"Effects of each axis on the final {report.metric.label}, averaged over the others, with simultaneous 95 % "
        "intervals",
        {"": rows},
        {"": f"difference in final {report.metric.full_label}"},
        {"main effect": LIGHT.lines[1], "interaction": LIGHT.lines[6]},
    )


def chart_interactions(report: Report) -> Chart:
    """The final value at each pair of levels of two axes: parallel lines mean that the two changes add up."""
    rows, levels, names = _collect_cells(report)
    caption = (
        f"Final {report.metric.full_label} at each pair of levels: means joined by lines, and one point per seed. "
        "Parallel lines mean that the effects add up"
    )
    hues = list(dict.fromkeys(row["hue"] for row in rows))[: len(LIGHT.lines)]
    legend = tuple(Legend(hue, color) for hue, color in zip(hues, LIGHT.lines, strict=False))
    return Chart(
        "interactions",
        caption,
        _declare_interactions(report, legend, levels) if rows else {},
        {"cells": [row for row in rows if row["hue"] in hues]},
        {"": {"data": ("cells",), "x_title": names[0]}},
        wide={
            "width": 420,
            "labels": "datum.kind == 'label'",
            "angle": 0 if len(levels) < 5 else -35,
            "label_limit": 400,
        },
        narrow={"labels": "false", "angle": -35, "label_limit": 130},
        legend=legend,
    )


def _collect_cells(report: Report) -> tuple[list[dict[str, Any]], list[str], tuple[str, str]]:
    """One row per run with its levels on the two axes that interact most clearly, and one label per line.

    Empty unless the study has effects of pairs outside `compare_within`.
    """
    pairs = [
        effect
        for effect in report.effects
        if effect.outcome == FINAL
        and len(effect.levels) == 2
        and not set(report.record.compare_within) & set(effect.levels)
    ]
    if not pairs:
        return [], [], ("", "")
    first = min(pairs, key=lambda pair: 1.0 if pair.p_simultaneous is None else pair.p_simultaneous)
    axes = sorted(first.levels, key=lambda axis: -len({str(arm.axes.get(axis)) for arm in report.record.arms}))
    x_axis, hue_axis = axes
    known = [arm for arm in report.record.arms if x_axis in arm.axes and hue_axis in arm.axes]
    rows: list[dict[str, Any]] = []
    shared = find_shared(report.record.arms)
    for arm in known:
        level, hue = (label_level(axis, arm.axes[axis], shared) for axis in axes)
        cell = {"level": level, "hue": hue}
        rows += [
            {**cell, "kind": "run", "arm": arm.arm, "seed": f"seed {run.seed}", "y": run.final_loss}
            for run in report.results.runs_of(arm.arm)
            if np.isfinite(run.final_loss)
        ]
    levels = list(dict.fromkeys(row["level"] for row in rows))
    for hue in dict.fromkeys(row["hue"] for row in rows):
        last = [row["y"] for row in rows if row["hue"] == hue and row["level"] == levels[-1]]
        if last:
            label = {"level": levels[-1], "hue": hue, "kind": "label", "y": float(np.mean(last))}
            rows.append({**label, "text": elide(hue, 24)})
    return rows, levels, (x_axis.rpartition(".")[2], hue_axis.rpartition(".")[2])


def _declare_interactions(report: Report, legend: Sequence[Legend], levels: Sequence[str]) -> Mapping[str, Any]:
    import altair as alt

    scale = alt.Scale(domain=[line.text for line in legend], range=[line.color for line in legend])
    color = alt.Color("hue:N", scale=scale, legend=None)
    axis = alt.Axis(
        labelAngle=alt.ExprRef("$angle"), labelLimit=alt.ExprRef("$label_limit"), labelOverlap=False, grid=False
    )
    x = alt.X("level:N", sort=list(levels), title="$x_title", axis=axis)
    y = alt.Y("y:Q", title=f"final {report.metric.full_label}", scale=alt.Scale(zero=False))
    mean = alt.Y("mean(y):Q", title=f"final {report.metric.full_label}", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.NamedData(ROWS))
    runs = base.transform_filter("datum.kind == 'run'")
    layers = alt.layer(
        runs.mark_line(strokeWidth=2).encode(x, mean, color),
        runs.mark_circle(size=34, opacity=0.7).encode(
            x, y, color, tooltip=["arm:N", "seed:N", alt.Tooltip("y:Q", format=".4f")]
        ),
        base.transform_filter("$labels")
        .mark_text(align="left", dx=8, baseline="middle")
        .encode(x, y, color, text="text:N"),
    )
    return declare(layers, 300)
