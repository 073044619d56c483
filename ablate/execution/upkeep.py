"""The files of a study while it trains: lost ones are restored, and weights are kept within a disk budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ablate.errors import RecordError
from ablate.execution.events import Event, Observer
from ablate.execution.jobs import config_of
from ablate.formatting import count, format_count
from ablate.plan import Plan, Run
from ablate.plan.identity import canonical_json
from ablate.study.schema import TrainConfig
from ablate.tracking.cleaning import Keep, clean
from ablate.tracking.folders import MAX_NAMED, RunFolder, StudyFolder, read_json, write_json
from ablate.tracking.study_record import Status

LATER = frozenset({"deterministic"})  # settings of `train` that older configs lack
EVERY_S = 10.0  # a look at a study of thousands of runs takes a while


def repair_runs(plan: Plan, store: StudyFolder, tell: Callable[[str], object], *, needs_weights: bool) -> None:
    """Check the files of every run that has ended, restore what can be restored, and `tell` the rest in sentences.

    A config is restored from the plan, and weights from the checkpoint if it still exists. No run is trained again for
    its weights, because another machine would not repeat its curve bit for bit. Missing weights may have been removed
    on purpose, so they are reported only if the caller `needs_weights`.
    """
    gone = []
    for run in {run.run_id: run for run in plan.runs}.values():
        folder = store.run(run.run_id)
        status = folder.read_status()
        if not folder.has_ended(status):
            continue
        for sentence in (*_repair_config(plan, run, folder), *_check_manifest(folder)):
            tell(sentence)
        if not run.arm.setup.trains_here or status.state != "finished":
            continue
        if (flaw := folder.weights_flaw()) and not _save_weights_again(folder, status):
            if folder.weights.is_symlink() or folder.weights.exists():
                tell(f"{flaw}; the curve is intact. To train the run again, remove its folder: {folder.path}")
            elif needs_weights:
                gone.append(str(folder.path))
    if gone:
        more = f" and {len(gone) - MAX_NAMED} more" if len(gone) > MAX_NAMED else ""
        tell(
            f"{count(len(gone), 'finished run')} without weights (cleaned away, merged without them, or lost); "
            f"the curves are intact. To train such a run again, remove its folder: {', '.join(gone[:MAX_NAMED])}{more}"
        )


def _repair_config(plan: Plan, run: Run, folder: RunFolder) -> Iterator[str]:
    expected = config_of(plan, run)
    passed_over = run.arm.setup.immaterial
    try:
        problem = (
            "" if _decisive(read_json(folder.config), passed_over) == _decisive(expected, passed_over) else "wrong"
        )
    except (RecordError, KeyError, TypeError, AttributeError, ValueError):
        problem = "missing or damaged"
    if not problem:
        return
    try:
        write_json(folder.config, expected)
        yield f"{folder.config} was {problem}; it was written again from the grid"
    except OSError as error:
        yield f"{folder.config}: {error.strerror}; move it away, and the same command writes it again from the grid"


def _decisive(config: Mapping[str, Any], passed_over: frozenset[str]) -> str:
    """The part of a config that decides the run's results, as text.

    Settings that came after some runs were recorded are left out at their defaults, as they are from run ids.
    """
    train = {
        key: value
        for key, value in config["train"].items()
        if key not in passed_over and not (key in LATER and value == TrainConfig.model_fields[key].default)
    }
    rest = {key: value for key, value in config.items() if key not in ("train", "data")}
    return canonical_json([rest, train, config["data"]["hash"]])


def _check_manifest(folder: RunFolder) -> Iterator[str]:
    """Report a lost manifest. It cannot be restored: only the training knew its device and versions."""
    try:
        problem = "" if isinstance(read_json(folder.manifest), dict) else f"{folder.manifest}: it is not a mapping"
    except RecordError as error:
        problem = str(error)
    if problem:
        yield (
            f"{problem}; reports name no device for this run, and it cannot be packed. "
            f"To train it again, remove its folder: {folder.path}"
        )


def _save_weights_again(folder: RunFolder, status: Status) -> bool:
    """Restore the weights from the final checkpoint, and return whether that worked."""
    if not folder.checkpoint.is_file():
        return False
    from ablate.training.checkpoint import read_checkpoint, write_weights

    try:
        state = read_checkpoint(folder.checkpoint)
        if state is None or status.curve is None or tuple(state["curve"]) != status.curve:
            return False
        write_weights(folder.weights, state["model"])
    except (RecordError, OSError, LookupError, TypeError, AttributeError):
        return False
    return True


class DiskBudget:
    """Removes weights by rule and budget when runs end, as `ablate clean` does. It passes all events on."""

    def __init__(self, store: StudyFolder, keep: Keep, budget_bytes: int | None, observe: Observer) -> None:
        self.store, self.keep, self.budget_bytes, self._observe = store, keep, budget_bytes, observe
        self._looked_at = -EVERY_S

    def observe(self, event: Event) -> None:
        self._observe(event)
        if event.kind == "ended" and time.monotonic() - self._looked_at >= EVERY_S:
            self.enforce()

    def enforce(self) -> None:
        if self.keep == "all" and self.budget_bytes is None:
            return
        self._looked_at = time.monotonic()
        try:
            removals = clean(self.store, self.keep, self.budget_bytes)
        except (OSError, RecordError) as error:  # the study continues, even if the disk fills up
            self._observe(Event("notice", text=f"no weights were removed: {error}"))
            return
        if removals:
            freed = format_count(sum(removal.n_bytes for removal in removals))
            self._observe(Event("notice", text=f"{freed}B of weights and leftovers removed ({removals[-1].reason})"))
