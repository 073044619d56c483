"""Which evaluations of a study are left to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ablate.errors import RecordError
from ablate.evaluation.choose import Choice
from ablate.formatting import name_error
from ablate.tracking.evaluations import (
    SNAPSHOTS,
    hash_weights,
    is_evaluated,
    list_evaluations,
    list_snapshots,
    read_evaluation,
)
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate.tracking.study_record import RunRecord, Status


@dataclass(frozen=True)
class Batch:
    """The evaluations of one set of a run's weights, which one worker does one after another.

    `weights` is the name of the file in the run's folder, `sha256` its hash, and `step` the last step of its training.
    `curve` is that of the status.
    """

    run: RunRecord
    weights: str
    sha256: str
    step: int
    curve: tuple[int, int] | None
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Pending:
    """What is left, and why some runs cannot be evaluated, by run and reason."""

    batches: tuple[Batch, ...]
    refused: Mapping[RunRecord, str] = field(default_factory=dict)

    @property
    def n_evaluations(self) -> int:
        return sum(len(batch.choices) for batch in self.batches)


def find_pending(store: StudyFolder, runs: Iterable[RunRecord], choices: Sequence[Choice]) -> Pending:
    """Find the evaluations of the runs' final weights that have no result yet, or whose last attempt failed.

    Those along training are found too, if a choice asks for them and their weights were kept.
    """
    batches: list[Batch] = []
    refused: dict[RunRecord, str] = {}
    for run in {run.run_id: run for run in runs}.values():
        folder = store.run(run.run_id)
        status = folder.read_status()
        reason = folder.weights_flaw()
        if not reason and not (status.state == "finished" and folder.has_ended(status)):
            reason = f"it is {folder.shown_state(status)}"
        fitting, misfit = _split_by_kind(folder, choices)
        if reason and _has_results(folder, status, fitting):
            continue  # the weights have served their purpose
        if reason or misfit:
            refused[run] = name_error(reason or misfit)
        if not reason:
            batches += _find_batches(run, folder, status, fitting)
    return Pending(tuple(batches), refused)


def _has_results(folder: RunFolder, status: Status, choices: Sequence[Choice]) -> bool:
    """Tell whether weights that are gone were evaluated before."""
    found = set()
    for path in list_evaluations(folder.path):
        with suppress(RecordError):
            record = read_evaluation(path)
            if not record.error and record.curve == status.curve and record.step == status.step:
                found.add((record.label, record.version, record.code))
    return all((choice.label, choice.evaluation.version, choice.code) in found for choice in choices)


def _find_batches(run: RunRecord, folder: RunFolder, status: Status, choices: Sequence[Choice]) -> list[Batch]:
    found = []
    for step, path in [*list_snapshots(folder), (status.step, folder.weights)]:
        is_final = path == folder.weights
        wanted = [choice for choice in choices if is_final or (choice.every and step % choice.every == 0)]
        if not wanted:
            continue
        sha256 = hash_weights(path)
        left = {key: choice for choice in wanted if not is_evaluated(folder, key := choice.key(sha256))}
        if left:
            found.append(
                Batch(run, str(path.relative_to(folder.path)), sha256, step, status.curve, tuple(left.values()))
            )
    return found


def _split_by_kind(folder: RunFolder, choices: Sequence[Choice]) -> tuple[list[Choice], str]:
    """The evaluations that can evaluate this kind of model, and a sentence about the others."""
    kind = "gpt"
    with suppress(RecordError):
        model = read_mapping(folder.config).get("model")
        kind = model.get("kind", kind) if isinstance(model, Mapping) else kind
    fitting = [choice for choice in choices if choice.evaluation.kinds is None or kind in choice.evaluation.kinds]
    others = [choice.name for choice in choices if choice not in fitting]
    return fitting, f"its model is of kind {kind}, which {', '.join(others)} cannot evaluate" if others else ""


def remove_snapshots(store: StudyFolder, run_ids: Iterable[str], choices: Sequence[Choice]) -> None:
    """Remove the weights along training that have been evaluated, or that no choice asks for."""
    along = [choice for choice in choices if choice.every]
    for run_id in run_ids:
        folder = store.run(run_id)
        if not folder.has_ended(folder.read_status()):
            continue
        for step, path in list_snapshots(folder):
            wanted = [choice for choice in along if choice.every and step % choice.every == 0]
            sha256 = hash_weights(path) if wanted else ""
            if all(is_evaluated(folder, choice.key(sha256)) for choice in wanted):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or not there
            (folder.path / SNAPSHOTS).rmdir()
