"""`ablate search`, put together: trials, then the best as an overlay, then the confirmation, then the page."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ablate.errors import RecordError
from ablate.execution.events import Outcome
from ablate.execution.placement import local_resources, place
from ablate.execution.run import Options, run_study
from ablate.execution.view import View
from ablate.search.confirm import plan_confirmation
from ablate.search.optimizer import check_names
from ablate.search.overlay import write_best
from ablate.search.problem import Problem
from ablate.search.pruning import Pruning
from ablate.search.trials import Trials
from ablate.tracking.store import Store


def run_search(
    problem: Problem,
    store: Store,
    base: Path,
    options: Options,
    console: Console,
    view: View,
) -> Outcome:
    """Train the trials that are left, write best.yaml, then confirm the best. The same call goes on after any end.

    Raises `GridError`, `ResourceError`, `DataError` and
    `ClusterLostError` as `run_study` does, and `AblateError` where every trial diverged.
    """
    check_names(problem)
    if options.address is None:
        place(problem.study.resources, local_resources(), options.workers, problem.n_trials)
    with _alone(store):
        trials = Trials(problem, store, version=options.version, command=options.command)
        stopping = Pruning(trials) if problem.tuning.pruner.name != "NopPruner" else None
        outcome = run_study(trials.plan, store, base, options, console, view, source=trials, stopping=stopping)
        if outcome.exit_code or trials.n_open:
            return outcome
        trials.check()
        write_best(problem, trials, store)
        confirmation = plan_confirmation(problem, trials)
        if confirmation is None:
            return outcome
        place_of = Store(store.path.parent / confirmation.study.study)
        return run_study(confirmation, place_of, base, options, console, view)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One process at a time asks for trials. Raises `RecordError` where another one does."""
    store.path.mkdir(parents=True, exist_ok=True)
    with (store.path / ".search.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"{store.path}: another `ablate search` is at work on it") from None
        yield
