"""How a trial did, from the files of its runs."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import TrialState

from ablate.plan import Run
from ablate.plan.tasks import metrics_of
from ablate.search.objective import score_trial
from ablate.search.problem import Problem
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder

Outcome = tuple[TrialState, list[float] | None]
"""The state and the values of a trial. One that diverged or was pruned has no values, but Optuna's samplers avoid its
settings."""


def judge(problem: Problem, store: StudyFolder, runs: Sequence[Run]) -> Outcome | None:
    """Judge a trial by these runs. None while they are not over, and while one of them waits since it was screened."""
    folders = [store.run(run.run_id) for run in runs]
    statuses = [folder.read_status() for folder in folders]
    cut_counts = problem.screen is None
    ended = [f.has_ended(s, cut_counts=cut_counts) for f, s in zip(folders, statuses, strict=True)]
    first_cut = statuses[0].is_cut and ended[0]
    if not first_cut and not all(ended):
        return None
    if first_cut or any(status.state == "diverged" or status.is_cut for status in statuses):
        return (TrialState.PRUNED if len(problem.objectives) == 1 else TrialState.FAIL), None
    curves = [read_curve(folder.curve) for folder in folders]
    return TrialState.COMPLETE, score_trial(curves, problem.objectives, metrics_of(problem.study))


def judge_screened(problem: Problem, store: StudyFolder, run: Run) -> Outcome | None:
    """Judge a trial by what its run had reached when it was screened, even if the run has gone on since then."""
    step, folder = problem.screen_step(run.arm.train), store.run(run.run_id)
    status = folder.read_status()
    if status.state == "diverged":
        return (TrialState.PRUNED, None) if folder.has_ended(status) else None
    curve = [record for record in read_curve(folder.curve) if record["step"] <= step]
    if not curve or curve[-1]["step"] < step:
        return None
    return TrialState.COMPLETE, score_trial([curve], problem.objectives, metrics_of(problem.study))
