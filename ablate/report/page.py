"""`report.html`: one file that works offline, with interactive figures."""

from __future__ import annotations

import math
from typing import Any

from ablate.analysis.curve_columns import Floats
from ablate.analysis.effects import FINAL, Effect
from ablate.metrics import Metric
from ablate.report.effect_tables import name_levels
from ablate.report.growth_and_interactions import name_family
from ablate.report.notation import AXIS_NAMES, label_targets, shorten_target
from ablate.report.offline_page import read_template, render_page
from ablate.report.palette import assign_looks
from ablate.report.pictures import caption_figures
from ablate.report.report import Report
from ablate.report.tables import evaluation_tables, tabulate
from ablate.report.thinned_curves import DrawnCurve, find_loss_range, thin_curves, thin_diagnostics

DIGITS = 5
"""Significant digits of a drawn number. A screen cannot show more."""

_DRAWN = ("arm", "axis", "target", "ratio", "low", "high", "bound")


def write_page(report: Report) -> str:
    data = collect_data(report)
    looks = assign_looks(report.arms)
    return render_page(
        read_template("page.html.j2"),
        read_template("page.js"),
        data,
        report=report,
        tables={table.name: {"table": table, "notes": table.note.splitlines()} for table in tabulate(report)},
        looks={report.labels[arm]: look for arm, look in looks.items()},
        axis_names={axis: AXIS_NAMES[axis] for axis in report.axes},
        diagnostics=list(data["diagnostics"]),
        buttons={column: curve["button"] for column, curve in data["curves"].items()},
        captions=caption_figures(report),
        evaluations=[table.name for table in evaluation_tables(report)],
        has_effects=bool(data["contrasts"]["effects"]),
    )


def collect_data(report: Report) -> dict[str, Any]:
    """The data that the page's script draws: thinned curves, colors, speedups, effects and diagnostics."""
    looks = assign_looks(report.arms)
    return {
        "axis": report.axis,
        "target": report.options.headline,
        "axes": {axis: AXIS_NAMES[axis] for axis in report.axes},
        "targets": [{"target": target, "text": shorten_target(target)} for target in report.options.targets],
        "arms": [
            {
                "arm": arm.arm,
                "label": report.labels[arm.arm],
                "color": looks[arm.arm].color,
                "dash": looks[arm.arm].dash,
                "is_baseline": arm.is_baseline,
            }
            for arm in report.arms
        ],
        "curves": _pack_curves(report),
        "speedup": [{name: getattr(row, name) for name in _DRAWN} for row in report.rows],
        "target_axis": label_targets(report.options.targets, report.metric),
        "contrast_axis": f"difference in final {report.metric.full_label}",
        "growths": {
            name: {
                "along": trends[0].along,
                "families": [
                    {"label": name_family(trend), "levels": trend.levels, "arms": trend.arms} for trend in trends
                ],
            }
            for name, trends in report.growth_figures.items()
        },
        "contrasts": {
            "differences": [_pack_contrast(e, report.labels[e.arm], e.arm) for e in report.differences],
            "effects": [_pack_contrast(e, name_levels(e), None) for e in report.effects if e.outcome == FINAL],
        },
        "diagnostics": {
            group: [
                {"arm": d.arm, "costs": _pack_costs(d.costs), "layers": {k: _round(v) for k, v in d.layers.items()}}
                for d in curves
            ]
            for group, curves in thin_diagnostics(report.results, report.axes).items()
        },
    }


def _pack_curves(report: Report) -> dict[str, Any]:
    """The curves of the study's metrics, then those of the training loss, by column."""
    training = Metric("train_loss", "lower")
    packed = {}
    for metric in dict.fromkeys((report.metric, *report.results.other_metrics, training)):
        lines = thin_curves(report.results, metric.name, report.axes)
        if metric == training and not report.metric.is_loss and not lines:
            continue  # a program may log no training loss
        button, text = _name_curve(metric, report.metric)
        bounds = find_loss_range(lines, metric)
        packed[metric.name] = {
            "button": button,
            "text": text,
            "lines": [_pack(line) for line in lines],
            "range": bounds,
            "cut": bounds and metric.worse_end(bounds),
        }
    return packed


def _name_curve(metric: Metric, main: Metric) -> tuple[str, str]:
    """The button and the axis of a metric's curves. Units are known only in the studies of language models."""
    if not main.is_loss or metric.name not in _OF_LOSSES:
        return metric.label, metric.full_label
    return _OF_LOSSES[metric.name], f"{_OF_LOSSES[metric.name]} loss (nats per token)"


_OF_LOSSES = {"val_loss": "validation", "train_loss": "training"}


def _pack(line: DrawnCurve) -> dict[str, Any]:
    return {
        "arm": line.arm,
        "state": line.state,
        "n_runs": line.n_runs,
        "costs": _pack_costs(line.costs),
        "mean": _round(line.mean),
        "band": [_round(line.low), _round(line.high)] if line.n_runs > 1 else None,
    }


def _pack_costs(costs: dict[str, Floats]) -> dict[str, list[float | None]]:
    return {axis: _round(cost) for axis, cost in costs.items()}


def _pack_contrast(effect: Effect, label: str, arm: str | None) -> dict[str, Any]:
    return {
        "arm": arm,
        "label": label,
        "estimate": effect.estimate,
        "low": effect.low_simultaneous,
        "high": effect.high_simultaneous,
    }


def _round(values: Floats) -> list[float | None]:
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]
