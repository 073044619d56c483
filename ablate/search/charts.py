"""The charts of a search: its history, the value against each setting, importance, and the confirmation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate.report.chart import ROWS, Chart, Choice, declare, round_number
from ablate.report.forest import ForestRow, chart_forest
from ablate.report.notation import elide
from ablate.report.palette import LIGHT
from ablate.search.descriptions import format_settings, format_value, metric_of

_TRIAL, _BEST, _DEFAULT, _LOST = LIGHT.lines[1], LIGHT.lines[2], LIGHT.lines[0], LIGHT.lines[4]


def chart_history(summary: Mapping[str, Any], index: int) -> Chart:
    """The value of each trial and the best so far, with the value of the defaults."""
    import altair as alt

    arm, objective = summary["arms"][index], summary["objectives"][0]
    rows = _list_trials(arm)
    better = min if objective["direction"] == "minimize" else max
    for place, row in enumerate(rows):
        row["best"] = better(earlier["value"] for earlier in rows[: place + 1])
    lost = [
        {"number": row["number"], "kind": "lost", "text": row["reason"] or row["state"]}
        for row in arm["history"]
        if not row["values"] and row["state"] != "open"
    ]
    base = alt.Chart(alt.NamedData(ROWS))
    trials = base.transform_filter("datum.kind == 'trial'")
    x = alt.X("number:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("value:Q", title=objective["text"], scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("number:Q", title="trial"), alt.Tooltip("value:Q", format=".5g"), alt.Tooltip("text:N")]
    chart = alt.layer(
        trials.transform_filter("datum.role == 'defaults'").mark_rule(color=_DEFAULT, strokeDash=[4, 3]).encode(y=y),
        trials.mark_line(color=_BEST, interpolate="step-after", strokeWidth=2).encode(x=x, y=alt.Y("best:Q")),
        trials.mark_circle(color=_TRIAL, size=60, opacity=0.75).encode(x=x, y=y, tooltip=tips),
        base.transform_filter("datum.kind == 'lost'")
        .mark_point(shape="cross", angle=45, color=_LOST, size=60, filled=True, opacity=1)
        .encode(x=x, y=alt.value(6), tooltip=[tips[0], tips[2]]),
    )
    caption = (
        "The value of each trial (points) and the best so far (line); the dashed line shows the defaults, and a cross "
        "is a trial without a value"
    )
    return Chart(
        f"history-{index}",
        caption,
        declare(chart, 280),
        {"trials": [*rows, *lost] if rows else []},
        {"": {"data": ("trials",)}},
        wide={"width": 560},
    )


def chart_slices(summary: Mapping[str, Any], index: int) -> Chart:
    """The value against one setting, chosen by its path."""
    import altair as alt

    arm, objective = summary["arms"][index], summary["objectives"][0]
    data, fills = {}, {}
    for path, parameter in arm["space"].items():
        kept = [row for row in _list_trials(arm) if path in row["params"]]
        is_number = not parameter.get("choices")
        for row in kept:
            value = row["params"][path]
            row["setting"] = value if is_number else format_value(value)
        if kept:
            data[path] = [{key: row[key] for key in (*_DRAWN, "setting")} for row in kept]
            scale = {"type": "log"} if parameter.get("log") else {"type": "linear", "zero": False} if is_number else {}
            kind = "quantitative" if is_number else "nominal"
            fills[path] = {"data": (path,), "title": path, "scale": scale, "kind": kind}
    base = alt.Chart(alt.NamedData(ROWS))
    roles = alt.Scale(domain=["trial", "defaults", "best"], range=["circle", "diamond", "triangle-up"])
    colors = alt.Scale(domain=["trial", "defaults", "best"], range=[_TRIAL, _DEFAULT, _BEST])
    tips = [alt.Tooltip("number:Q", title="trial"), alt.Tooltip("value:Q", format=".5g"), alt.Tooltip("text:N")]
    points = base.mark_point(filled=True).encode(
        x=alt.X("setting:Q", title="$title", scale=alt.Scale(zero=False)),
        y=alt.Y("value:Q", title=objective["text"], scale=alt.Scale(zero=False)),
        shape=alt.Shape("role:N", scale=roles, legend=None),
        color=alt.Color("role:N", scale=colors, legend=None),
        opacity=alt.condition(
            "datum.role == 'trial'",
            alt.Opacity("number:Q", scale=alt.Scale(range=[0.35, 1]), legend=None),
            alt.value(1),
        ),
        size=alt.condition("datum.role == 'trial'", alt.value(70), alt.value(160)),
        tooltip=tips,
    )
    spec: dict[str, Any] = {**declare(points, 280)}
    if data:
        x = spec["encoding"]["x"]
        x |= {"type": "$kind", "scale": "$scale"}
    return Chart(
        f"slices-{index}",
        "The value against one setting; later trials are more opaque, the best is a triangle, the defaults a diamond",
        spec,
        data,
        fills,
        (Choice("setting", "Setting shown", {path: path for path in fills}),),
        wide={"width": 560},
    )


def chart_importance(summary: Mapping[str, Any], index: int) -> Chart:
    """How clearly each setting separates the best trials from the others."""
    rows = [
        ForestRow(row["path"], "", "setting", row["importance"], row["low"], row["high"], f"{row['importance']:.2f}")
        for row in summary["arms"][index]["importance"]
    ]
    caption = (
        "Importance of each setting for being among the best trials, with its range over resampled trials; it shows "
        "which setting to look at, not how much it gains"
    )
    return chart_forest(f"importance-{index}", caption, {"": rows}, {"": "importance"}, {"setting": _TRIAL})


def chart_confirmation(summary: Mapping[str, Any]) -> Chart:
    """The final value of each arm of the confirmation by seed."""
    import altair as alt

    losses = (summary["confirmation"] or {}).get("losses", [])
    rows = [
        {"arm": elide(row["arm"], 60), "seed": f"seed {seed}", "value": round_number(loss)}
        for row in losses
        for seed, loss in row["by_seed"].items()
        if loss is not None
    ]
    y = alt.Y("arm:N", title=None, sort=[elide(row["arm"], 60) for row in losses], axis=alt.Axis(labelLimit=300))
    x = alt.X("value:Q", title=f"final {metric_of(summary).full_label}", scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("arm:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", format=".4f")]
    base = alt.Chart(alt.NamedData(ROWS))
    chart = alt.layer(
        base.mark_line(color=_DEFAULT, strokeWidth=1, opacity=0.6).encode(x=x, y=y, detail="seed:N"),
        base.mark_circle(color=_TRIAL, size=80, opacity=1).encode(x=x, y=y, tooltip=tips),
    )
    return Chart(
        "confirmation",
        f"Final {metric_of(summary).label} of each arm, one point per seed; lines join runs of the same seed",
        declare(chart, {"step": 42}),
        {"runs": rows},
        {"": {"data": ("runs",)}},
        wide={"width": 380},
    )


_DRAWN = ("number", "value", "kind", "role", "text")


def _list_trials(arm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per trial with a value."""
    roles = {arm["default"]: "defaults", arm["best"]: "best"}
    return [
        {
            "number": row["number"],
            "value": row["values"][0],
            "kind": "trial",
            "role": roles.get(row["number"], "trial"),
            "text": format_settings(row["params"]),
            "params": row["params"],
        }
        for row in arm["history"]
        if row["values"]
    ]


def list_charts(summary: Mapping[str, Any], index: int) -> Sequence[Chart]:
    """The charts of one arm."""
    return [make(summary, index) for make in (chart_history, chart_slices, chart_importance)]
