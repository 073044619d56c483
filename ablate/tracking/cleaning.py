"""`ablate clean`: the files of a study that may be removed, and their order. Curves, configs and manifests stay."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ablate.errors import GridError, suggest
from ablate.metrics import Metric
from ablate.tracking.curve import is_held
from ablate.tracking.evaluations import list_snapshots
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.study_record import StudyRecord

Keep = Literal["all", "best", "baseline", "none"]
KEEPS: tuple[Keep, ...] = ("all", "best", "baseline", "none")
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Removal:
    """A file to remove, with the reason."""

    path: Path
    n_bytes: int
    reason: str


def plan_cleaning(store: StudyFolder, keep: Keep, budget_bytes: int | None) -> list[Removal]:
    """List the files that the rule removes, then weights that exceed the budget, the worst value of the metric first.

    `keep` says whose weights stay: those of all runs, of each arm's best run, of the baselines, or none. Weights along
    training that still wait for an evaluation go with those of their run. Half-written
    files and checkpoints of runs that ended are always removed. A run that is being trained, and the checkpoint of an
    unfinished run, are never touched.
    """
    record = store.read_study()
    kept = _kept_by_rule(store, record, keep)
    removals = []
    for run_id in dict.fromkeys(run.run_id for run in record.runs):
        folder = store.run(run_id)
        if is_held(folder.curve):
            continue
        removals += [_remove(path, "half written") for path in sorted(folder.path.glob(".*.*")) if _is_file(path)]
        status = folder.read_status()
        if _is_file(folder.checkpoint) and folder.has_ended(status) and not status.is_cut:
            removals.append(_remove(folder.checkpoint, "its run has ended"))
        if run_id not in kept:
            along = (path for _, path in list_snapshots(folder) if folder.has_ended(status))
            removals += [_remove(path, f"--keep {keep}") for path in (folder.weights, *along) if _is_file(path)]
    if budget_bytes is None:
        return removals
    excess = _size(store.path) - sum(removal.n_bytes for removal in removals) - budget_bytes
    for folder in _worst_first(store, kept, record.metric):
        if excess <= 0:
            break
        removals.append(_remove(folder.weights, "the disk budget"))
        excess -= removals[-1].n_bytes
    return removals


def clean(store: StudyFolder, keep: Keep, budget_bytes: int | None) -> list[Removal]:
    """Remove the files that `plan_cleaning` lists. The study may be training meanwhile."""
    removals = plan_cleaning(store, keep, budget_bytes)
    for removal in removals:
        removal.path.unlink(missing_ok=True)
    return removals


def parse_keep(word: str) -> Keep:
    """Read the rule of `--keep`. Raises `GridError` if there is no such rule."""
    for keep in KEEPS:
        if word == keep:
            return keep
    raise GridError(f"--keep {word}: no such rule{suggest(word, KEEPS)}")


def parse_bytes(text: str, option: str = "--disk-budget") -> int:
    """Read a size such as `800M`, `2.5GB` or `1000`. Raises `GridError` for anything else."""
    number = text.removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        size = float(number.removesuffix(unit) if unit else number) * UNITS[unit]
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise GridError(f"{option} {text}: not a size; write it as 800M or 2.5GB")
    return int(size)


def _kept_by_rule(store: StudyFolder, record: StudyRecord, keep: Keep) -> frozenset[str]:
    if keep == "all":
        return frozenset(run.run_id for run in record.runs)
    if keep == "none":
        return frozenset()
    if keep == "baseline":
        baselines = {arm.baseline for arm in record.arms}
        return frozenset(run.run_id for run in record.runs if run.arm in baselines)
    losses = {run.run_id: _loss(store.run(run.run_id), record.metric) for run in record.runs}
    arms: dict[str, list[str]] = {}
    for run in record.runs:
        arms.setdefault(run.arm, []).append(run.run_id)
    return frozenset(min(run_ids, key=lambda run_id: losses[run_id]) for run_ids in arms.values())


def _worst_first(store: StudyFolder, run_ids: frozenset[str], metric: Metric) -> Iterator[RunFolder]:
    folders: Sequence[RunFolder] = [store.run(run_id) for run_id in sorted(run_ids)]
    weighty = [folder for folder in folders if _is_file(folder.weights) and not is_held(folder.curve)]
    yield from sorted(weighty, key=lambda folder: _loss(folder, metric), reverse=True)


def _loss(folder: RunFolder, metric: Metric) -> float:
    """The last value of the metric, turned so that lower is better."""
    value = folder.last_validation(metric.name)
    return float("inf") if value is None else float(metric.orient(value))


def _remove(path: Path, reason: str) -> Removal:
    return Removal(path, _size(path), reason)


def _is_file(path: Path) -> bool:
    """Tell whether this is a regular file or a link. Only these are removed, because ablate writes nothing else."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _size(path: Path) -> int:
    """Measure a file, or all files in a folder (bytes). Links are not followed; files that vanish count as 0."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(map(_size, path.iterdir()))
        return path.lstat().st_size
    except OSError:
        return 0
