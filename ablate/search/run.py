"""Run `ablate search`: trials, then best.yaml, then the confirmation, then the page."""

from __future__ import annotations

import fcntl
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ablate.data import CorpusInfo
from ablate.errors import AblateError, FailedRunsError, RecordError
from ablate.execution.placement import local_resources, place
from ablate.execution.progress import Outcome
from ablate.execution.run import Options, run_study
from ablate.execution.view import View
from ablate.files import make_folder, open_regular
from ablate.formatting import count
from ablate.plan import Plan
from ablate.search.best_yaml import write_best
from ablate.search.conclusions import count_open, state_conclusions
from ablate.search.follow_up import plan_confirmation, plan_tuned
from ablate.search.optimizer import check_names
from ablate.search.page import SUMMARY, write_pages
from ablate.search.pose import pose_tuning
from ablate.search.problem import Problem
from ablate.search.pruning import Pruning
from ablate.search.result import summarize
from ablate.search.trials import Trials
from ablate.study import Study
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import read_json
from ablate.tracking.mlflow_writer import publish

_TRIAL = re.compile(r",?trial=\w+$")  # the end of a trial's name, after the name of its arm


def run_search(
    problem: Problem,
    store: StudyFolder,
    base: Path,
    options: Options,
    console: Console,
    view: View,
    out: Path | None = None,
) -> Outcome:
    """Train the remaining trials, write best.yaml, confirm the best, and write the pages into `out`.

    The same call continues a search that ended early. Raises `GridError`, `ResourceError`, `DataError` and
    `ClusterLostError` as `run_study` does, `AblateError` where every trial diverged, and `FailedRunsError` where runs
    failed.
    """
    trained = store
    with _trained(problem, store, base, options, console, view) as (trials, outcome):
        if _is_over(trials, outcome):
            write_best(problem, trials, store)
            confirmation = plan_confirmation(problem, trials)
            if confirmation is not None:
                trained = StudyFolder(store.path.parent / confirmation.study.name)
                outcome = run_study(confirmation, trained, base, options, console, view)
        # --quiet and --log-json users see the results too.
        report_search(problem, trials, store, options, Console(stderr=console.stderr), out)
    _refuse_failures(trained, outcome, "the same command tries them again")
    return outcome


def tune_study(
    study: Study, corpus: CorpusInfo, runs: Path, base: Path, options: Options, console: Console, view: View
) -> tuple[Outcome, Plan | None]:
    """Search the best settings of every arm, as the grid's `tune:` says. Returns the plan with them when it is over.

    The early-stopping rule of the options applies to the matrix only; trials have the pruner of `tune:`.
    Raises what `run_search` raises.
    """
    problem, options = pose_tuning(study, corpus), replace(options, early_stop=None)
    store = StudyFolder(runs / problem.name)
    with _trained(problem, store, base, options, console, view) as (trials, outcome):
        try:
            report_search(problem, trials, store, options, console, None)
        except (AblateError, ImportError, OSError) as error:  # the matrix needs the trials, not their page
            line = f"the page of the trials was not written ({error}); the same command writes it"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        plan = plan_tuned(problem, study, trials) if _is_over(trials, outcome) else None
    again = "the same command tries them again, or leave the arm out of the grid"
    _refuse_failures(store, outcome, f"the matrix needs the trials of every arm: {again}")
    return outcome, plan


@contextmanager
def _trained(
    problem: Problem, store: StudyFolder, base: Path, options: Options, console: Console, view: View
) -> Iterator[tuple[Trials, Outcome]]:
    """Train the remaining trials, and hold the lock of the search's folder while their results are used."""
    check_names(problem)
    if options.address is None and not store.path.exists():  # before anything is written
        place(problem.study.resources, [local_resources()], options.workers, problem.n_trials)
    with _alone(store):
        trials = Trials(problem, store, version=options.version, command=options.command)
        stopping = Pruning(trials) if problem.tuning.pruner.name != "NopPruner" else None
        outcome = run_study(trials.plan, store, base, options, console, view, source=trials, stopping=stopping)
        if _is_over(trials, outcome):
            trials.check()
        yield trials, outcome
    if options.limit is not None and options.limit.is_over:
        console.print(f"time is up; continue with: {options.command}", markup=False, highlight=False, soft_wrap=True)


def _is_over(trials: Trials, outcome: Outcome) -> bool:
    return not outcome.exit_code and not trials.n_open


def _refuse_failures(store: StudyFolder, outcome: Outcome, advice: str) -> None:
    """Raises `FailedRunsError` where runs failed, with their arms, the first error, and what to do."""
    if outcome.halted:
        raise FailedRunsError(f"gave up: {outcome.halted}")
    failed = {} if outcome.interrupted else store.failed_runs(outcome.lost)
    if failed:
        arms = Counter(name for run in failed if (name := _TRIAL.sub("", run.arm)))
        which = ", ".join(f"{n} of {arm}" for arm, n in arms.items())
        n_runs, (first, error) = count(sum(outcome.states.values()), "run"), next(iter(failed.items()))
        raise FailedRunsError(
            f"{store.path.name}: {len(failed)} of {n_runs} failed{which and f': {which}'}\n"
            f"first failure, {first.arm},seed={first.seed}: {error}\n"
            f"traceback: ablate logs {first.run_id}{store.whereabouts}\n"
            f"{advice}"
        )


def report_search(
    problem: Problem, trials: Trials, store: StudyFolder, options: Options, console: Console, out: Path | None
) -> None:
    """Write the pages, print their conclusions, and publish them to MLflow when the search is over."""
    summary = summarize(problem, trials, store, options.version)
    folder = out or store.report
    is_new = not (folder / SUMMARY).exists() or read_json(folder / SUMMARY) != json.loads(json.dumps(summary))
    paths = write_pages(summary, folder)
    sentences = state_conclusions(summary)
    for sentence in sentences:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nPage: {paths['search.html'].resolve()}", markup=False, highlight=False, soft_wrap=True)
    if count_open(summary) or not options.tracking_uri or not is_new:
        return
    figures = {
        f"best/{arm['arm']}": row.get("final", row["values"][0])
        for arm in summary["arms"]
        for row in arm["history"]
        if row["number"] == arm["best"]
    }
    excuse = publish(options.tracking_uri, store.read_study(), paths, figures, "\n\n".join(sentences))
    if excuse:
        console.print(excuse, markup=False, highlight=False, soft_wrap=True)


def rewrite_search(problem: Problem, store: StudyFolder, options: Options, console: Console, out: Path | None) -> None:
    """Write the pages again without training. Raises `RecordError` where no search was run."""
    store.read_study()
    with _alone(store):
        report_search(problem, Trials(problem, store), store, replace(options, tracking_uri=""), console, out)


@contextmanager
def _alone(store: StudyFolder) -> Iterator[None]:
    """Let only one process ask for trials. Raises `RecordError` where another process does."""
    make_folder(store.path)
    with open_regular(store.path / ".search.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"{store.path}: another `ablate search` is working in this folder") from None
        yield
