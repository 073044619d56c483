"""The tables of a search as cells of text, used by the page and the Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ablate.report.table import Table
from ablate.search.descriptions import describe_range, format_settings, format_value, metric_of
from ablate.study.tuning import Parameter


def tabulate(summary: Mapping[str, Any]) -> list[Table]:
    """Best settings, losses of the confirmation, importance, and all trials."""
    tables = []
    for index, arm in enumerate(summary["arms"]):
        rows = {row["number"]: row for row in arm["history"]}
        best = rows[arm["best"]]["params"] if arm["best"] is not None else {}
        tables.append(
            Table(
                f"settings-{index}",
                f"{arm['arm']}: search space, defaults and best settings",
                ("Setting", "Values", "Default", "Best", "At the edge"),
                tuple(
                    (
                        path,
                        describe_range(Parameter.model_validate(parameter)),
                        format_value(arm["defaults"].get(path)),
                        format_value(best.get(path)),
                        "yes" if path in arm["at_edge"] else "",
                    )
                    for path, parameter in arm["space"].items()
                ),
            )
        )
    tables += filter(None, [_confirmation(summary)])
    tables += [_importance(index, arm) for index, arm in enumerate(summary["arms"]) if arm["importance"]]
    tables += [_trials(index, arm, summary) for index, arm in enumerate(summary["arms"])]
    return tables


def _confirmation(summary: Mapping[str, Any]) -> Table | None:
    confirmation = summary["confirmation"]
    if not confirmation:
        return None
    seeds = [str(seed) for seed in confirmation["seeds"]]
    rows = []
    for row in confirmation["losses"]:
        losses = [row["by_seed"].get(seed) for seed in seeds]
        known = [loss for loss in losses if loss is not None]
        mean = f"{sum(known) / len(known):.4f}" if known else "diverged"
        rows.append((row["arm"], mean, *("" if loss is None else f"{loss:.4f}" for loss in losses)))
    header = ("Arm", "Mean", *(f"Seed {seed}" for seed in seeds))
    return Table(
        "confirmation",
        f"Confirmation: final {metric_of(summary).label} after {confirmation['horizon']}",
        header,
        tuple(rows),
    )


def _importance(index: int, arm: Mapping[str, Any]) -> Table:
    rows = tuple(
        (row["path"], f"{row['importance']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}") for row in arm["importance"]
    )
    n_trials = arm["importance"][0]["n"]
    caption = f"{arm['arm']}: importance (PED-ANOVA) of each setting for being among the best of {n_trials} trials"
    return Table(f"importance-{index}", caption, ("Setting", "Importance", "95 % range over resampled trials"), rows)


def _trials(index: int, arm: Mapping[str, Any], summary: Mapping[str, Any]) -> Table:
    paths, has_finals = list(arm["space"]), "finalists" in summary
    rows = tuple(
        (
            str(row["number"]),
            *(
                (format_value(value) for value in row["values"])
                if row["values"]
                else ["-"] * len(summary["objectives"])
            ),
            *([format_value(row.get("final"))] if has_finals else []),
            *(format_value(row["params"].get(path)) for path in paths),
            "; ".join(_remark(row, arm)),
        )
        for row in arm["history"]
    )
    objectives = [objective["text"] for objective in summary["objectives"]]
    header = ("Trial", *objectives, *(["as a finalist"] if has_finals else []), *paths, "")
    return Table(f"trials-{index}", f"{arm['arm']}: all trials", header, rows)


def _remark(row: Mapping[str, Any], arm: Mapping[str, Any]) -> Iterator[str]:
    """Is it the default, why did it give no value, and which other settings give the same configuration?"""
    if row["number"] == arm["default"]:
        yield "defaults"
    elif row["reason"] or not row["values"]:
        yield row["reason"] or row["state"]
    for settings in row.get("same", ()):
        yield f"same configuration as {format_settings(settings)}"
