"""Training without Ray, driver or other processes, for tests of the steps before and after training."""

from __future__ import annotations

from collections.abc import Iterable

from ablate.data import Corpus
from ablate.execution.jobs import make_job
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import Plan, Run
from ablate.tracking.folders import StudyFolder

ONE_CPU = Placement(1, 0, 1)


def train_here(plan: Plan, runs: Iterable[Run], store: StudyFolder, corpus: Corpus | None) -> None:
    """Train runs one after another to their end, starting from whatever their folders hold."""
    worker = RunWorker(store.path, corpus, ONE_CPU)
    for run in runs:
        assert worker.train(make_job(plan, run, ONE_CPU, {})) == "finished"
