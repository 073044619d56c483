"""The result of a search in sentences, with its certainty and its scope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ablate.formatting import count
from ablate.metrics import Metric
from ablate.search.descriptions import format_settings, format_value, metric_of

ALPHA = 0.05
_BIAS = "the best of many trials is optimistically biased"


def state_conclusions(summary: Mapping[str, Any]) -> list[str]:
    """The confirmation, the best settings of each arm, and the scope of both."""
    return [*_state_confirmation(summary), *map(_describe_best, summary["arms"]), _state_scope(summary)]


def count_open(summary: Mapping[str, Any]) -> int:
    """The number of trials that have not started or not ended."""
    over = sum(row["state"] != "open" for arm in summary["arms"] for row in arm["history"])
    wanted: int = sum(arm.get("n_trials", summary["trials"]) for arm in summary["arms"])
    return wanted - over if wanted > over else 0


def _state_confirmation(summary: Mapping[str, Any]) -> Iterator[str]:
    confirmation = summary["confirmation"]
    if summary.get("is_tuning"):
        yield f"The study trains each arm with its best settings and other seeds, because {_BIAS}."
        return
    is_default_best = [arm["best"] is not None and arm["best"] == arm["default"] for arm in summary["arms"]]
    if is_default_best == [True] and not count_open(summary):
        yield "There is nothing to confirm: no trial was better than the defaults."
        return
    if confirmation is None or not confirmation["differences"]:
        yield f"The best settings are not confirmed yet, and {_BIAS}."
        return
    for row in confirmation["differences"]:
        yield _describe_difference(row, metric_of(summary))


def _describe_difference(row: Mapping[str, Any], metric: Metric) -> str:
    arm, other = row["arm"], row["against"]
    if row["estimate"] is None:
        return f"{arm} and {other} have no seed in common, so they cannot be compared."
    size = f"{row['estimate']:+.4f}{metric.unit}"
    if row["low"] is None:
        return f"{arm} against {other}: {size} of {metric.label} (no interval: one seed)."
    certainty = f"95 % interval [{row['low']:+.4f}, {row['high']:+.4f}], {row['n']} fresh seeds, paired"
    if row["p_value"] > ALPHA:
        return f"{arm} and {other} show no detectable difference in {metric.label}: {size} ({certainty})."
    word = "lower" if row["estimate"] < 0 else "higher"
    return f"{arm} ends at a clearly {word} {metric.label} than {other}: {size} ({certainty})."


def _describe_best(arm: Mapping[str, Any]) -> str:
    name, rows = arm["arm"], {row["number"]: row for row in arm["history"]}
    if arm["best"] is None:
        return f"{name}: no trial was completed."
    best, default = rows[arm["best"]], rows.get(arm["default"])
    value = format_value(best["values"][0])
    remarks = f" At the edge of its range: {', '.join(arm['at_edge'])}." if arm["at_edge"] else ""
    n_shared = sum(len(row.get("same", ())) for row in arm["history"])
    if n_shared:
        remarks += f" {count(n_shared, 'combination')} gave the configuration of another one and shared its trial."
    n_trials = arm["n_configurations"]
    if arm["best"] == arm["default"]:
        if "final" in best:
            return f"{name}: the defaults were the best finalist ({format_value(best['final'])}).{remarks}"
        return f"{name}: none of {count(n_trials, 'trial')} was better than the defaults ({value}).{remarks}"
    against = "the defaults diverged" if default is None else f"the defaults gave {format_value(default['values'][0])}"
    which = f"best of {n_trials} ({value}; {against})"
    if "final" in best:
        which = f"best finalist ({format_value(best['final'])}; {value} when finalists were chosen, {against})"
    settings = format_settings(best["params"])
    return f"{name}: trial {arm['best']} was the {which}, with {settings}.{remarks}"


def _state_scope(summary: Mapping[str, Any]) -> str:
    confirmation = summary["confirmation"]
    later = f" The confirmation trained for {confirmation['horizon']}." if confirmation else ""
    return (
        f"Scope of the trials: {summary['scope']}.{later} Good settings change with width and horizon "
        "(arXiv 2604.27077), so these results hold only for this scope."
    )
