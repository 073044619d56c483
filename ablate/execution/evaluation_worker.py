"""A worker process that evaluates trained models, one after another."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from ablate.data import Corpus, Tokenizer
from ablate.errors import AblateError
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.choose import Choice
from ablate.evaluation.pending import Batch
from ablate.evaluation.subject import make_subject
from ablate.execution.node_files import NodeFiles
from ablate.execution.placement import Placement
from ablate.tracking.evaluations import EvaluationRecord, EvaluationRow, write_evaluation
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate.training.precision import PRECISIONS, forbid_tf32
from ablate_model.own_code import LIBRARY
from ablate_model.own_modules import describe_error


@dataclass(frozen=True)
class Task:
    """One evaluation of a batch."""

    batch: Batch
    choice: Choice

    def __str__(self) -> str:
        run = self.batch.run
        return f"{self.choice.label} of {run.arm},seed={run.seed} at step {self.batch.step}"

    def record(self, rows: Sequence[EvaluationRow] = (), error: str = "", took_s: float = 0.0) -> EvaluationRecord:
        """The record of its result, or of its failure."""
        batch, evaluation = self.batch, self.choice.evaluation
        metrics = dict(evaluation.metrics)
        return EvaluationRecord(
            name=self.choice.name,
            label=self.choice.label,
            version=evaluation.version,
            weights=batch.sha256,
            step=batch.step,
            metrics={row.metric: metrics.get(row.metric) for row in rows},
            rows=tuple(rows),
            knobs=evaluation.model_dump(mode="json"),
            code=self.choice.code,
            curve=batch.curve,
            error=error,
            took_s=round(took_s, 3),
            ended_at=round(time.time(), 3),
        )

    def keep(self, store: StudyFolder, record: EvaluationRecord) -> None:
        """Write the record into the folder of the run. Raises `OSError` if the disk does not accept it."""
        write_evaluation(store.run(self.batch.run.run_id), self.choice.key(self.batch.sha256), record)


class EvaluationWorker:
    """Evaluates models in the precision that they were trained in. The driver makes it a Ray actor.

    The model of the last task stays loaded. The `courier` brings the files of the driver if this node does not see
    them.
    """

    def __init__(
        self,
        study: Path,
        corpus: Corpus | None,
        tokenizer: Tokenizer | None,
        placement: Placement,
        courier: Any = None,
    ) -> None:
        self.files = NodeFiles(study, courier)
        self.files.fetch_code()
        self.store, self.corpus = StudyFolder(self.files.study), self.files.find_corpus(corpus)
        LIBRARY.trust(self.store.code)  # the driver wrote it, or was told to trust it
        torch.set_num_threads(placement.cpus)
        forbid_tf32()
        self.device = torch.device("cuda" if placement.gpus and torch.cuda.is_available() else "cpu")
        self.tokenizer = tokenizer
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._loaded: tuple[tuple[str, str], Subject] | None = None

    def ready(self) -> str:
        """Return the host and the process id."""
        return self.name

    def leave(self) -> None:
        """Remove what this worker's node only has for it."""
        self.files.leave()

    def evaluate(self, task: Task) -> EvaluationRecord:
        """Evaluate, and return the result, or the error of an evaluation that failed."""
        started = time.monotonic()
        rows: list[EvaluationRow] = []
        error = ""
        try:
            torch.manual_seed(0)
            subject = self._load(task.batch)
            with self._precision(task.batch), torch.no_grad():
                rows = [_to_record(row) for row in task.choice.evaluation.evaluate(subject)]
        except AblateError as known:
            error = str(known)
        except Exception as raised:  # noqa: BLE001 - the error of one evaluation must not take the others down
            error = describe_error(raised) or traceback.format_exc()
        if task.choice.code or error:
            self._loaded = None  # the user's function may have changed the model
        return task.record(rows if not error else (), error, time.monotonic() - started)

    def _load(self, batch: Batch) -> Subject:
        key = batch.run.run_id, batch.weights
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees the memory first
            run = self.files.fetch_run(batch.run.run_id, (self.store.run("").config.name, batch.weights))
            self._loaded = key, make_subject(run, batch.weights, self.device, self.corpus, self.tokenizer)
        return self._loaded[1]

    def _precision(self, batch: Batch) -> torch.autocast:
        config = read_mapping(self.store.run(batch.run.run_id).config)
        return PRECISIONS[config["train"]["precision"]].context(self.device)  # type: ignore[return-value]


def _to_record(row: Row) -> EvaluationRow:
    value, n, note = row.value, row.n, row.note
    if value is not None and not isfinite(value):
        value, n, note = None, 0, note or f"it is {value}"
    error = row.standard_error if row.standard_error is not None and isfinite(row.standard_error) else None
    return EvaluationRow(row.metric, value, n, dict(row.within), error, row.chance, note, row.is_factor)
