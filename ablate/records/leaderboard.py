"""The entries of a benchmark, from reports, and its boards: loss, and the cost of the target on each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.comparison import find_clock_obstacle, sharing_of
from ablate.analysis.convergence import reach_loss
from ablate.analysis.differences import Difference, find_differences
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve, device_of
from ablate.formatting import count
from ablate.records.benchmark import Breach, Rules, find_breaches
from ablate.records.ranking import Ranking, rank
from ablate.report.verifications import find_verifications
from ablate.report.write import read_study
from ablate.tracking.arm_labels import label_arms
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ArmRecord
from ablate.tracking.verifications import Replication

LOSS = "loss"
REFUTED: Replication = "refuted"


@dataclass(frozen=True, eq=False)
class Entry:
    """An arm of a report that obeys the rules.

    `difference` is the published one from its baseline; None for a baseline. `outcomes` are those of its verifications,
    with the number of fresh seeds of each.
    """

    folder: Path
    name: str
    arm: ArmRecord
    runs: tuple[RunCurve, ...]
    difference: Difference | None
    outcomes: tuple[tuple[Replication, int], ...]

    @property
    def is_refuted(self) -> bool:
        """Whether fresh seeds refuted its verdict. Such an entry is shown and not ranked."""
        return any(outcome == REFUTED for outcome, _ in self.outcomes)


@dataclass(frozen=True)
class Refused:
    """An arm of a report that breaks rules."""

    folder: Path
    name: str
    breaches: tuple[Breach, ...]


@dataclass(frozen=True, eq=False)
class Board:
    """Entries ranked by one quantity. Costs are ranked by their logarithms.

    `values` has the quantity per seed of each ranked entry. `left_out` are the other entries, with the reason.
    """

    name: str
    axis: str
    device: str
    entries: tuple[Entry, ...]
    values: tuple[Mapping[int, float], ...]
    ranking: Ranking
    left_out: tuple[tuple[Entry, str], ...]

    @property
    def is_cost(self) -> bool:
        return self.axis != LOSS


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """All boards of a benchmark, and the arms that were refused."""

    rules: Rules
    boards: tuple[Board, ...]
    entries: tuple[Entry, ...]
    refused: tuple[Refused, ...]


def make_leaderboard(rules: Rules, folders: Sequence[Path]) -> Leaderboard:
    """Read the reports in these folders and rank their arms.

    Raises `RecordError` if one cannot be read.
    """
    studies = {folder: read_study(StudyFolder(folder)) for folder in dict.fromkeys(folders)}
    names = [results.record.study for results in studies.values()]
    found = [
        item
        for folder, results in studies.items()
        for item in _read_entries(rules, folder, results, names.count(results.record.study) == 1)
    ]
    entries = [item for item in found if isinstance(item, Entry)]
    refused = tuple(item for item in found if isinstance(item, Refused))
    return Leaderboard(rules, tuple(_make_boards(rules, entries)) if entries else (), tuple(entries), refused)


def _read_entries(rules: Rules, folder: Path, results: Results, is_unique: bool) -> Iterator[Entry | Refused]:
    """Each arm of a report. It goes by the study's name, or by the folder if two studies share the name."""
    title = results.record.study if is_unique else "/".join(folder.parts[-2:])  # pages contain no whole paths
    labels, differences = label_arms(results.record.arms), {row.arm: row for row in find_differences(results)}
    verifications = [made for made in find_verifications(results.record, [folder]) if made.is_complete]
    for arm in results.record.arms:
        if breaches := tuple(find_breaches(rules, results, arm)):
            yield Refused(folder, f"{title}: {labels[arm.arm]}", breaches)
            continue
        outcomes = tuple(
            (checked.outcome, len(made.seeds))
            for made in verifications
            for checked in made.arms
            if checked.arm == arm.arm
        )
        own = differences.get(arm.arm) if arm.baseline != arm.arm else None
        yield Entry(folder, f"{title}: {labels[arm.arm]}", arm, results.runs_of(arm.arm), own, outcomes)


def _make_boards(rules: Rules, entries: Sequence[Entry]) -> Iterator[Board]:
    yield _make_board(
        LOSS, LOSS, "", entries, {entry: {run.seed: _orient(run) for run in entry.runs} for entry in entries}
    )
    target = rules.benchmark.target
    for axis in ("tokens", "flops"):
        yield _make_board(axis, axis, "", entries, _find_costs(entries, axis, target))
    obstacles = {entry: reason for entry in entries if (reason := find_clock_obstacle(entry.runs))}
    clocks: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        if entry not in obstacles:
            clocks.setdefault(sharing_of(entry.runs[0]), []).append(entry)
    devices = [
        str(device_of(group[0].runs[0].manifest).get("name") or "an unknown device") for group in clocks.values()
    ]
    for group, device in zip(clocks.values(), devices, strict=True):
        n_sharing = group[0].runs[0].n_sharing
        shown = device if devices.count(device) == 1 else f"{device}, {count(n_sharing, 'run')} at a time"
        known = _find_costs(group, "seconds", target) | obstacles
        yield _make_board(f"seconds on {shown}", "seconds", shown, [*group, *obstacles], known)
    if obstacles and not clocks:
        yield _make_board("seconds", "seconds", "", list(obstacles), obstacles)


def _orient(run: RunCurve) -> float:
    return float(run.metric.orient(run.final_loss))


def _find_costs(entries: Sequence[Entry], axis: str, target: float) -> dict[Entry, dict[int, float] | str]:
    """The logarithm of the cost at which each run reaches the target, by seed; or why an entry has none."""
    known: dict[Entry, dict[int, float] | str] = {}
    for entry in entries:
        reaches = [reach_loss(run, target) for run in entry.runs]
        costs = {reach.run.seed: reach.cost(axis) for reach in reaches}
        sides = [reach.side for reach in reaches]
        if "never" in sides:
            known[entry] = f"{sides.count('never')} of {count(len(sides), 'run')} never reach the target"
        elif "before" in sides:
            known[entry] = "a run is past the target at its first evaluation"
        elif not all(np.isfinite(cost) and cost > 0 for cost in costs.values()):
            known[entry] = "the cost is not recorded"
        else:
            known[entry] = {seed: math.log(cost) for seed, cost in costs.items()}
    return known


def _make_board(
    name: str, axis: str, device: str, entries: Sequence[Entry], known: Mapping[Entry, dict[int, float] | str]
) -> Board:
    ranked, values, left_out = [], [], []
    for entry in entries:
        value = "fresh seeds refuted its published verdict" if entry.is_refuted else known[entry]
        if isinstance(value, str):
            left_out.append((entry, value))
        else:
            ranked.append(entry)
            values.append(value)
    return Board(name, axis, device, tuple(ranked), tuple(values), rank(values), tuple(left_out))
