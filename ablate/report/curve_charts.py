"""The charts of training: loss curves, and their differences from the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ablate.metrics import Metric
from ablate.report.chart import ROWS, Chart, Choice, declare, mark_no_difference, round_list
from ablate.report.chart_parts import (
    HEIGHT,
    LINEAR,
    LOG,
    blank_scale,
    choose_axis,
    choose_lines,
    color_of,
    count_columns,
    dash_of,
    identify,
    list_legend,
    x_of,
    y_of,
)
from ablate.report.encoding import Scales
from ablate.report.end_labels import frame_panels, pad_range
from ablate.report.notation import AXIS_NAMES
from ablate.report.report import Report
from ablate.report.thinned_curves import DrawnCurve, find_loss_range, thin_curves

SHOWN_SEEDS = 5
"""Up to this many seeds are drawn one by one. More become a band from the lowest to the highest."""

END = 0.25
"""The share of the training that its end is."""

_START = 0.25
"""The share of the training whose differences may leave the picture, because they are many times as large."""

_SEED = f"datum.kind == 'seed' && datum.n <= {SHOWN_SEEDS}"


def chart_curves(report: Report) -> Chart:
    """The metrics against cost, one color and dash per arm, with the end of training as a view of its own."""
    metric, training = report.metric, Metric("train_loss", "lower")
    data: dict[str, list[dict[str, Any]]] = {}
    fills: dict[str, dict[str, Any]] = {}
    views: dict[str, str] = {}
    choice = choose_axis(report)
    results, note = choose_lines(report)
    for column in dict.fromkeys((metric, *report.results.other_metrics, training)):
        lines = thin_curves(results, column.name, report.axes)
        if not lines:
            continue
        name, title = _name_curve(column, metric)
        bounds = find_loss_range(lines, column)
        for view in ("", ":end") if column == metric else ("",):
            key = f"{column.name}{view}"
            views[key] = "end of training" if view else name
            shown = _cut_to_end(lines) if view else lines
            kept = [cut for line in shown if (cut := _cut(line, None if view else bounds)) is not None]
            data[key] = [row for line in kept for row in _write_runs(line, report)]
            for axis in choice.options:
                data[f"{key}|{axis}"] = frame_panels(kept, axis, report, is_shared=not view)
                fills[f"{axis}|{key}"] = {
                    "data": (key, f"{key}|{axis}"),
                    "x": axis,
                    "x_title": AXIS_NAMES[axis],
                    "x_scale": LINEAR if view or _has_zero(kept, axis) else LOG,
                    "y_title": f"{title}, cut at {column.worse_end(bounds):.3g}" if bounds and not view else title,
                }
    what = "Loss" if metric.is_loss else "Metrics"
    return _finish(
        report,
        "curves",
        f"{what} against cost: {_SEEDS}{note}",
        data,
        fills,
        (choice, Choice("view", "Curves shown", views)),
    )


_SEEDS = f"thick lines are means over seeds, thin lines are seeds; beyond {SHOWN_SEEDS} seeds, a band is their range"


def chart_minus_baseline(report: Report) -> Chart:
    """The metric minus that of the baseline with the same seed at the same cost."""
    metric = report.metric
    results, note = choose_lines(report)
    lines = thin_curves(results, metric.name, report.axes)
    whole = {line.arm: line for line in lines if not line.state}
    data: dict[str, list[dict[str, Any]]] = {}
    fills: dict[str, dict[str, Any]] = {}
    for axis in choose_axis(report).options:
        curves = [
            found
            for arm in results.compared_arms
            if arm in whole and (base := whole.get(results.baseline_of(arm)))
            if (found := _subtract(whole[arm], base, axis)) is not None
        ]
        last = {line.arm: _START * float(line.costs[axis][-1]) for line in curves}
        late = [line.values[:, line.costs[axis] >= last[line.arm]].ravel() for line in curves]
        bounds = pad_range(np.append(np.concatenate(late), 0.0)) if curves else None
        kept = [cut for line in curves if (cut := _cut(line, bounds)) is not None]
        if not kept:
            continue
        data[axis] = [row for line in kept for row in _write_runs(line, report)]
        data[f"{axis}|frame"] = frame_panels(kept, axis, report, is_shared=True, zero=0.0)
        fills[axis] = {
            "data": (axis, f"{axis}|frame"),
            "x": axis,
            "x_title": AXIS_NAMES[axis],
            "x_scale": LINEAR,
            "y_title": f"{metric.label} minus the baseline's{' (nats)' if metric.is_loss else ''}",
        }
    caption = (
        f"{metric.title} minus that of the baseline with the same seed at the same cost; {metric.side} zero, the arm "
        f"is ahead. The axis shows the last 75 % of training in full{note}"
    )
    return _finish(report, "minus-baseline", caption, data, fills, (choose_axis(report),), zero=True)


def _name_curve(metric: Metric, main: Metric) -> tuple[str, str]:
    """The button and the axis of a metric's curves. Units are known only in the studies of language models."""
    if not main.is_loss or metric.name not in _OF_LOSSES:
        return metric.label, metric.full_label
    return f"{_OF_LOSSES[metric.name]} loss", f"{_OF_LOSSES[metric.name]} loss (nats per token)"


_OF_LOSSES = {"val_loss": "validation", "train_loss": "training"}


def _write_runs(line: DrawnCurve, report: Report) -> Iterator[dict[str, Any]]:
    """One row per run, with lists. An incomplete run is a line of its own, and no part of a mean."""
    costs = {axis: round_list(cost) for axis, cost in line.costs.items()}
    for seed, values in zip(line.seeds, line.values, strict=True):
        yield {
            **identify(report.looks[line.arm], report.labels[line.arm], line.arm),
            "kind": "part" if line.state else "seed",
            "seed": line.state or f"seed {seed}",
            "n": len(line.seeds),
            **costs,
            "y": round_list(values),
        }


def _subtract(line: DrawnCurve, base: DrawnCurve, axis: str) -> DrawnCurve | None:
    """An arm's curves minus those of its baseline at the same cost, by seed if the seeds match. None if unknown."""
    cost, base_cost = line.costs[axis], base.costs[axis]
    inside = np.isfinite(cost) & (cost >= base_cost[0]) & (cost <= base_cost[-1])
    if not inside.any():
        return None
    shared = [seed for seed in line.seeds if seed in base.seeds]
    pairs = [(line.values[line.seeds.index(s)], base.values[base.seeds.index(s)]) for s in shared] or [
        (values, base.mean) for values in line.values
    ]
    values = np.stack([mine[inside] - np.interp(cost[inside], base_cost, theirs) for mine, theirs in pairs])
    return DrawnCurve(line.arm, "", {axis: cost[inside]}, values, tuple(shared) or line.seeds)


def _cut(line: DrawnCurve, bounds: tuple[float, float] | None) -> DrawnCurve | None:
    """The points at which all seeds are known and inside the bounds; None without such points."""
    inside = np.isfinite(line.values).all(axis=0)
    if bounds is not None:
        inside &= ((line.values >= bounds[0]) & (line.values <= bounds[1])).all(axis=0)
    return _keep(line, inside) if inside.any() else None


def _keep(line: DrawnCurve, chosen: Any) -> DrawnCurve:
    costs = {axis: cost[chosen] for axis, cost in line.costs.items()}
    return replace(line, costs=costs, values=line.values[:, chosen])


def _cut_to_end(lines: Sequence[DrawnCurve]) -> list[DrawnCurve]:
    """The last part of each complete curve, by its first axis of cost."""
    steps = [next(iter(line.costs.values())) for line in lines]
    return [
        _keep(line, step >= (1 - END) * step[-1]) for line, step in zip(lines, steps, strict=True) if not line.state
    ]


def _has_zero(lines: Sequence[DrawnCurve], axis: str) -> bool:
    """Whether a cost is zero or unknown, which a logarithmic axis cannot show."""
    return not all((line.costs[axis] > 0).all() for line in lines)


def _finish(
    report: Report,
    name: str,
    caption: str,
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    fills: Mapping[str, Mapping[str, Any]],
    choices: tuple[Choice, ...],
    *,
    zero: bool = False,
) -> Chart:
    columns = count_columns(report)
    longest = max((len(row["text"]) for rows in data.values() for row in rows if row["kind"] == "label"), default=0)
    wide: dict[str, Any] = {"labels": "datum.kind == 'label'"}
    if columns == 1:
        wide["width"] = 640 - 70 - int(6.2 * longest)
    return Chart(
        name,
        caption,
        _declare_curves(report.scales, zero=zero),
        data,
        fills,
        choices,
        wide=wide,
        narrow={"labels": "false"},
        legend=list_legend(report.looks),
        columns=columns,
    )


@cache
def _declare_curves(scales: Scales, *, zero: bool) -> Mapping[str, Any]:
    import altair as alt

    x, y = x_of(), y_of("y")
    group = [alt.Detail("arm:N"), color_of(scales), dash_of(scales)]
    tips = [alt.Tooltip("name:N", title="arm"), alt.Tooltip("seed:N")]
    keys: list[str | alt.FieldName] = ["arm", "name", "hue", "style", "panel", "$x"]
    base = alt.Chart(alt.NamedData(ROWS))
    seeds = base.transform_filter(_SEED).mark_line(clip=True, strokeWidth=1, opacity=0.45)
    parts = base.transform_filter("datum.kind == 'part'").mark_line(clip=True, strokeWidth=1)
    band = (
        base.transform_filter(f"datum.kind == 'seed' && datum.n > {SHOWN_SEEDS}")
        .transform_aggregate(low="min(y)", high="max(y)", groupby=keys)
        .mark_area(clip=True, opacity=0.18)
    )
    means = base.transform_filter("datum.kind == 'seed'").transform_aggregate(mean="mean(y)", groupby=keys)
    mean_tips = [tips[0], alt.Tooltip("$x:Q", title="$x_title", format=".4~s"), alt.Tooltip("mean:Q", format=".4f")]
    layers = [
        band.encode(x=x, y=y_of("low"), y2="high:Q", detail="arm:N", color=color_of(scales)),
        seeds.encode(x, y, alt.Detail(["arm:N", "seed:N"]), *group[1:], tooltip=tips),
        parts.encode(x, y, alt.Detail(["arm:N", "seed:N"]), *group[1:], tooltip=tips),
        means.mark_line(clip=True, strokeWidth=2.4).encode(x, y_of("mean"), *group, tooltip=tips[:1]),
        base.transform_filter("datum.kind == 'corner'").mark_point(opacity=0).encode(x, y),  # sets the ranges
        means.transform_filter("$tips")
        .mark_circle(clip=True, size=50, opacity=0)
        .encode(x, y_of("mean"), *group[:2], tooltip=mean_tips),
        base.transform_filter("$labels")
        .mark_text(align="left", dx=5, baseline="middle")
        .encode(x, y, text="text:N", color=color_of(scales)),
    ]
    if zero:
        layers.insert(0, mark_no_difference().encode(y=alt.datum(0)))
    spec: Mapping[str, Any] = blank_scale(declare(alt.layer(*layers), HEIGHT, scales.panels, has_own_ranges=True))
    return spec
