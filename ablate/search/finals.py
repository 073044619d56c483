"""The finalists of a tuning: the trials of each arm that run with all seeds, and to the end if they were screened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import TrialState

from ablate.plan import Arm, Run
from ablate.search.arm_search import ARM, ArmSearch, rank
from ablate.search.outcomes import judge
from ablate.search.problem import Problem
from ablate.tracking.folders import StudyFolder


class Finals:
    """Who the finalists are, by the files of the runs, so that a process that takes over knows it too.

    Without finalists, every trial has all runs from the start.
    """

    def __init__(self, problem: Problem, store: StudyFolder) -> None:
        self.problem, self.store = problem, store
        self._names: set[str] = set()  # of the finalists' arms

    def choose(self, search: ArmSearch, arms: Mapping[str, Arm]) -> list[Run]:
        """Choose the finalists of an arm whose trials have all run with the first seed, and note how they do.

        One that diverges gives its place to the next. Returns the runs of new finalists.
        """
        new: list[Run] = []
        before, search.finals = search.finals, {}
        for name in dict.fromkeys(trial.user_attrs[ARM] for trial in rank(search)):
            if len(search.finals) == self.problem.n_finalists:
                break
            runs = list_runs(arms[name], self.problem.seeds)
            state, values = judge(self.problem, self.store, runs) or (TrialState.COMPLETE, None)
            if state == TrialState.COMPLETE:
                search.finals[name] = values[0] if values else None
                new += [] if name in before else runs
        self._names = self._names.difference(before).union(search.finals)
        return new

    def runs_of(self, arm: Arm) -> tuple[Run, ...]:
        """The runs of a trial. Only finalists have all seeds."""
        return list_runs(arm, self.problem.seeds if arm.name in self._names else self.problem.first_seeds)

    def keeps_cut(self, run: Run) -> bool:
        """The run of a finalist that waits since it was screened goes on."""
        return self.problem.screen is None or run.arm.name not in self._names

    def pause_step(self, run: Run) -> int | None:
        """The step after which the run of a trial waits; None for a finalist."""
        if self.problem.screen is None or run.arm.name in self._names:
            return None
        return self.problem.screen_step(run.arm.train)

    def drop_checkpoints(self, search: ArmSearch, arms: Mapping[str, Arm]) -> None:
        """Remove the checkpoints of trials that waited in vain, once all finalists have finished."""
        if self.problem.screen is not None and None not in search.finals.values():
            for name in {trial.user_attrs[ARM] for trial in rank(search)} - search.finals.keys():
                for run in self.runs_of(arms[name]):
                    self.store.run(run.run_id).checkpoint.unlink(missing_ok=True)


def list_runs(arm: Arm, seeds: Sequence[int]) -> tuple[Run, ...]:
    """The runs of an arm with these seeds."""
    return tuple(Run.of(arm, seed) for seed in seeds)
