"""What a search found, in sentences that say how sure it is and for what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ablate.formatting import count
from ablate.search.descriptions import format_settings, format_value

ALPHA = 0.05


def state_conclusions(summary: Mapping[str, Any]) -> list[str]:
    """The finding, the confirmation first, then how far it reaches."""
    return [*_confirmed(summary), *map(_describe_best, summary["arms"]), _reach(summary)]


def count_open(summary: Mapping[str, Any]) -> int:
    """Trials that are still to come, or are not over."""
    over = sum(row["state"] != "open" for arm in summary["arms"] for row in arm["history"])
    wanted: int = sum(arm.get("n_trials", summary["trials"]) for arm in summary["arms"])
    return wanted - over if wanted > over else 0


def _confirmed(summary: Mapping[str, Any]) -> Iterator[str]:
    confirmation = summary["confirmation"]
    if summary.get("is_tuning"):
        yield "The study trains each arm at its best, with other seeds: a search's own best value flatters."
        return
    is_default_best = [arm["best"] is not None and arm["best"] == arm["default"] for arm in summary["arms"]]
    if is_default_best == [True] and not count_open(summary):
        yield "There is nothing to confirm: no trial was better than the defaults."
        return
    if confirmation is None or not confirmation["differences"]:
        yield "The best settings are not confirmed yet: a search's own best value flatters."
        return
    for row in confirmation["differences"]:
        yield _describe_difference(row)


def _describe_difference(row: Mapping[str, Any]) -> str:
    names = f"{row['arm']} against {row['against']}"
    if row["estimate"] is None:
        return f"{names}: no seed in common, nothing can be said."
    size = f"{row['estimate']:+.4f} nats of validation loss"
    if row["low"] is None:
        return f"{names}: {size} (no interval: one seed)."
    interval = f"[{row['low']:+.4f}, {row['high']:+.4f}], {row['n']} fresh seeds, paired"
    if row["p_value"] > ALPHA:
        return f"{names}: {size}, 95 % interval {interval}: no difference could be told."
    word = "lower" if row["estimate"] < 0 else "higher"
    return f"{names}: {size}, 95 % interval {interval}: {word} beyond chance."


def _describe_best(arm: Mapping[str, Any]) -> str:
    name, rows = arm["arm"], {row["number"]: row for row in arm["history"]}
    if arm["best"] is None:
        return f"{name}: no trial was completed."
    best, default = rows[arm["best"]], rows.get(arm["default"])
    value = format_value(best["values"][0])
    edge = f" At the edge of its range: {', '.join(arm['at_edge'])}." if arm["at_edge"] else ""
    n_shared = sum(len(row.get("same", ())) for row in arm["history"])
    if n_shared:
        edge += f" {count(n_shared, 'combination')} came to the configuration of another one and shared its trial."
    of = f"of {count(arm['n_configurations'], 'trial')}"
    if arm["best"] == arm["default"]:
        return f"{name}: {of}, none was better than the defaults ({value}).{edge}"
    against = "the defaults diverged" if default is None else f"the defaults {format_value(default['values'][0])}"
    settings = format_settings(best["params"])
    return f"{name}: {of}, number {arm['best']} was best ({value}, {against}): {settings}.{edge}"


def _reach(summary: Mapping[str, Any]) -> str:
    confirmation = summary["confirmation"]
    later = f" They were confirmed at {confirmation['horizon']}." if confirmation else ""
    return (
        f"The trials trained {summary['scope']}.{later} Good settings move with width and horizon (arXiv 2604.27077): "
        "this holds for these."
    )
