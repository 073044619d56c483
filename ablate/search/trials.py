"""Ask and tell: the driver draws trials as runs, and reports the runs that ended, while others train.

Optuna's storage holds the trials, and the run folders hold their results. A trial is running until all of its runs have
ended, even if the process that asked for it is gone. A trial that came with `ablate merge` is added to Optuna from its
runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ablate.errors import AblateError, GridError, RecordError
from ablate.execution.affinity import NO_AFFINITY, Affinity
from ablate.execution.jobs import RunSource, record_study
from ablate.plan import Arm, Plan, Run
from ablate.plan.identity import run_id
from ablate.plan.setup import Resolved
from ablate.search.arm_search import ARM, DEFAULTS, IMPOSSIBLE, ArmSearch, asked, best_of, contained, distinct, rank
from ablate.search.finals import Finals, list_runs
from ablate.search.optimizer import copy_storage, make_sampler, open_storage, open_study
from ablate.search.outcomes import Outcome, judge, judge_screened
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace, Params
from ablate.study.settings import find_same, is_same, value_key
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import State, StudyRecord

MAX_IMPOSSIBLE = 100  # in a row
MAX_REPEATS = 100  # known configurations in a row; the sampler may have no others left


class Trials(RunSource):
    """The trials of a search. `plan` and the study's record on disk grow with every trial.

    `version` and `command` go into the record. With `is_read_only`, nothing is written.
    """

    def __init__(
        self, problem: Problem, store: StudyFolder, *, version: str = "", command: str = "", is_read_only: bool = False
    ) -> None:
        self.problem, self.store, self.version, self.command = problem, store, version, command
        self.is_read_only = is_read_only
        self.arms: dict[str, Arm] = {}
        self._names: dict[str, str] = {}  # identity to the name of the arm that has it
        self._params: dict[str, Params] = {}
        self._finals = Finals(problem, store)
        self._final_runs: list[Run] = []  # that were not drawn yet
        record = store.read_study() if store.record.exists() else None
        if record is not None:
            problem.check_record(record)
        storage = copy_storage(problem, store.path) if is_read_only else open_storage(problem.storage, store.path)
        self.searches = [self._open(space, storage, record) for space in problem.arms]
        for search in self.searches:
            self._promote(search)
        self._final_runs.clear()  # the plan already has them

    @property
    def plan(self) -> Plan:
        """All trials so far as the plan of a study. The defaults are the baseline of their arm's trials."""
        arms = tuple(self.arms.values())
        runs = tuple(run for arm in arms for run in self.runs_of(arm))
        axes = dict.fromkeys(axis for arm in arms for axis in arm.axes)
        levels = {axis: tuple(dict.fromkeys(arm.axes[axis] for arm in arms if axis in arm.axes)) for axis in axes}
        study, corpus = self.problem.study, self.problem.corpus
        return Plan(study, corpus, levels, {}, arms, runs, (), tuning=self.problem.declaration())

    def default_of(self, search: ArmSearch) -> Arm:
        return self._find_arm(search.space, search.space.defaults, is_default=True)

    def params_of(self, arm: str) -> Params:
        """The settings of an arm of the plan."""
        return self._params[arm]

    @property
    def n_left(self) -> int:
        """The runs of trials that were not asked for yet, and those of finalists that are not known yet."""
        n_trials, n_finals = (sum(map(each, self.searches)) for each in (self.count_unasked, self.count_finals))
        return n_trials * len(self.problem.first_seeds) + n_finals + len(self._final_runs)

    def count_unasked(self, search: ArmSearch) -> int:
        """The trials of an arm that were not asked for yet."""
        return self.n_wanted(search) - len(distinct(search.trials))

    def count_finals(self, search: ArmSearch) -> int:
        """The runs with further seeds that an arm's finalists will have, as long as they are not known."""
        n = self.problem.n_finalists
        if n is None or search.finals or (self._is_screened(search) and not rank(search)):
            return 0
        return min(n, self.n_wanted(search)) * len(self.problem.final_seeds)

    @property
    def n_open(self) -> int:
        """The trials that are not over, including those that were not asked for yet."""
        return sum(
            self.count_unasked(search) + len(search.running) + [*search.finals.values()].count(None)
            for search in self.searches
        )

    def n_wanted(self, search: ArmSearch) -> int:
        """The number of configurations that an arm has tried when its search is over.

        It is less than `trials` where no more exist, and greater where `trials` was reduced later.
        """
        n_tried = len(distinct(search.trials))
        return n_tried if self._is_over(search) else max(n_tried, search.space.count_trials(self.problem.tuning))

    def shared_by(self, search: ArmSearch, arm: str) -> list[Params]:
        """The differing settings of other combinations that are the same configuration and share the arm's trial.

        For a grid these are all listed combinations, otherwise those that the sampler drew.
        """
        if not arm:
            return []
        if self.problem.tuning.is_grid:
            drawn = search.space.combinations.get(self.arms[arm].identity, [])
        else:
            drawn = [trial.params for trial in search.trials if trial.user_attrs.get(ARM) == arm]
        mine = self._params[arm]
        others = [{p: value for p, value in params.items() if not is_same(value, mine.get(p))} for params in drawn]
        return [other for index, other in enumerate(others) if other and find_same(other, others[:index]) is None]

    def _is_over(self, search: ArmSearch) -> bool:
        """Tell if there is nothing left to ask for. A trial that shares a configuration does not count, but a sampler
        that only repeats itself ends the search too."""
        tuning = self.problem.tuning
        if tuning.is_grid:
            return self._next_of_grid(search) is None
        begun, new = asked(search.trials), distinct(search.trials)
        n_repeats = sum(trial.number > new[-1].number for trial in begun) if new else 0
        is_exhausted = len(new) >= search.space.count_trials(tuning) or n_repeats >= MAX_REPEATS
        return len(new) >= tuning.trials or (len(begun) >= tuning.trials and is_exhausted)

    def check(self) -> None:
        """Raises `AblateError` where an arm has no completed trial."""
        for search in self.searches:
            if best_of(search) is None:
                what = search.space.label or self.problem.name
                raise AblateError(
                    f"{what}: all {len(distinct(search.trials))} trials diverged or were pruned, including the "
                    "defaults: search lower learning rates, or lower `train.learning_rate` itself"
                )

    def draw(self, affinity: Affinity = NO_AFFINITY) -> Sequence[Run]:
        """Return the runs of a trial from this round or the next. A round has one trial for each arm.

        A known configuration is not trained again.
        """
        while left := {s: len(asked(s.trials)) for s in self.searches if not self._is_over(s)}:
            fewest = min(left.values())
            near = [search for search, n in left.items() if n <= fewest + 1]
            search = min(near, key=lambda s: affinity.rank(s.space.default.setup, is_next=left[s] > fewest))
            if self.problem.tuning.is_grid:
                search.study.enqueue_trial(dict(self._next_of_grid(search) or {}))
            runs = self._begin(search, search.study.ask())
            if runs:
                return runs
        for search in self.searches:
            if not search.finals:
                self._promote(search)
        runs, self._final_runs = self._final_runs, []
        return runs

    def _next_of_grid(self, search: ArmSearch) -> Params | None:
        """A combination of the first configuration without a trial, or None."""
        tried = {self._key_of(trial) for trial in asked(search.trials)}
        return next((group[0] for key, group in search.space.combinations.items() if key not in tried), None)

    def _key_of(self, trial: FrozenTrial) -> Hashable:
        """The key of a trial's configuration in `ArmSpace.combinations`."""
        arm = trial.user_attrs.get(ARM)
        return self.arms[arm].identity if arm else value_key(trial.params)

    def _begin(self, search: ArmSearch, trial: optuna.Trial) -> list[Run]:
        """Begin or continue a trial. Returns its runs that are left to train."""
        is_default = bool(trial.user_attrs.get(DEFAULTS))
        params = self._take_defaults(search.space, trial) if is_default else search.space.suggest(trial)
        try:
            arm = self._find_arm(search.space, params, is_default=is_default)
        except GridError as error:
            self._refuse(search, trial, str(error))
            return []
        if arm.name not in self.arms:
            self._add(arm, params)
            self._write()  # before the storage has the trial, so that the storage never has more than this folder
        trial.set_user_attr(ARM, arm.name)
        others = search.running.setdefault(arm.name, [])
        others.append(trial)
        if len(others) > 1:  # the same configuration is in training already
            return []
        self._settle(search, arm.name)
        return [run for run in self.runs_of(arm) if arm.name in search.running and not self.has_ended(run)]

    def _refuse(self, search: ArmSearch, trial: optuna.Trial, reason: str) -> None:
        """Mark a trial failed because the model refuses its settings. A hundred of them in a row are an error."""
        trial.set_user_attr(IMPOSSIBLE, reason)
        search.study.tell(trial, state=TrialState.FAIL)
        last = search.trials[-MAX_IMPOSSIBLE:]
        if len(last) == MAX_IMPOSSIBLE and all(IMPOSSIBLE in other.user_attrs for other in last):
            raise GridError(f"{MAX_IMPOSSIBLE} trials in a row had incompatible settings, the last: {reason}")

    def _take_defaults(self, space: ArmSpace, trial: optuna.Trial) -> Params:
        """Tell Optuna the defaults that lie in the space. Defaults outside are trained too."""
        for path in contained(space, space.defaults):
            space.suggest_one(trial, path)
        return space.defaults

    def tell(self, run: Run, state: State) -> None:  # noqa: ARG002 - the folder says it too, after a restart as well
        for search in self.searches:
            if run.arm.name in search.running:
                self._settle(search, run.arm.name)
                self._promote(search)
            elif run.arm.name in search.finals:
                self._promote(search)
                self._drop_weights(search, run.arm.name)
                if not self.is_read_only:
                    self._finals.drop_checkpoints(search, self.arms)

    def _settle(self, search: ArmSearch, name: str) -> None:
        """Report a trial whose runs have ended to Optuna. A failed one stays open: the next start tries it again."""
        outcome = self.find_result(self.arms[name])
        if outcome is None:
            return
        state, values = outcome
        for trial in search.running.pop(name):
            search.study.tell(trial, values, state=state, skip_if_finished=True)
        self._drop_weights(search, name)

    def _is_screened(self, search: ArmSearch) -> bool:
        """Tell if all trials of an arm have run with the first seed."""
        return self._is_over(search) and not search.running

    def _promote(self, search: ArmSearch) -> None:
        """Choose the finalists of an arm once all of its trials have run with the first seed."""
        if self.problem.n_finalists is not None and self._is_screened(search):
            new = self._finals.choose(search, self.arms)
            self._final_runs += [run for run in new if not self.has_ended(run)]
            if new:
                self._write()

    def keeps_cut(self, run: Run) -> bool:
        return self._finals.keeps_cut(run)

    def pause_step(self, run: Run) -> int | None:
        return self._finals.pause_step(run)

    def _drop_weights(self, search: ArmSearch, name: str) -> None:
        """Keep only the weights of the best trial of a search."""
        if self.is_read_only:
            return
        best, before = best_of(search), search.best
        search.best = best.user_attrs[ARM] if best is not None else ""
        for loser in {name, before} - {search.best, ""}:
            for run in self.runs_of(self.arms[loser]):
                self.store.run(run.run_id).weights.unlink(missing_ok=True)

    def find_result(self, arm: Arm) -> Outcome | None:
        """How a trial did in the runs that every trial has, or None while they are not over."""
        runs = list_runs(arm, self.problem.first_seeds)
        if self.problem.screen is None:
            return judge(self.problem, self.store, runs)
        return judge_screened(self.problem, self.store, runs[0])

    def _open(self, space: ArmSpace, storage: optuna.storages.BaseStorage, record: StudyRecord | None) -> ArmSearch:
        study = open_study(self.problem, space, storage)
        known = dict.fromkeys(trial.user_attrs.get(ARM) for trial in study.get_trials(deepcopy=False))
        default = self._find_arm(space, space.defaults, is_default=True)
        search, is_behind = ArmSearch(space, study), False
        for entry in record.arms if record else ():
            if entry.baseline == default.name:
                params = {path: entry.axes[path] for path in space.parameters if path in entry.axes}
                arm = self._find_arm(space, params, is_default=entry.arm == default.name)
                if arm.name != entry.arm:
                    raise GridError(
                        f"{self.problem.study.file}: {self.problem.name} was run before with other `rules`: "
                        f"the trial {entry.arm} had other settings: undo that change, or give this search another name"
                    )
                self._add(arm, params)
                if arm.name not in known:
                    self._adopt(search, arm, params)
                    is_behind = True
        strange = next((arm for arm in known if arm and arm not in self.arms), None)
        if strange is not None:
            raise RecordError(
                f"storage: the trial {strange} was trained elsewhere, and {self.store.path} does not have it: "
                "add it with `ablate pack` and `ablate merge`, or use another storage"
            )
        if not search.trials:
            study.enqueue_trial(contained(space, space.defaults), user_attrs={DEFAULTS: True})
        running = [trial for trial in search.trials if trial.state == TrialState.RUNNING]
        begun = [optuna.Trial(study, trial._trial_id) for trial in running]
        begun += [study.ask() for trial in search.trials if trial.state == TrialState.WAITING]
        for trial in begun:
            if is_behind and ARM not in trial.user_attrs:  # its result has just been added
                study.tell(trial, state=TrialState.FAIL)
            else:
                self._begin(search, trial)
        study.sampler = make_sampler(self.problem.tuning.sampler, space, len(search.trials))
        return search

    def _adopt(self, search: ArmSearch, arm: Arm, params: Params) -> None:
        """Add a trial that Optuna does not know. A trial that is not over is enqueued."""
        space = search.space
        known = contained(space, params)
        attributes: dict[str, Any] = {ARM: arm.name} | ({DEFAULTS: True} if arm.name == arm.baseline else {})
        outcome = self.find_result(arm)
        if outcome is None:
            search.study.enqueue_trial(known, user_attrs=attributes)
            return
        state, values = outcome
        distributions = {path: space.distributions[path] for path in known}
        search.study.add_trial(
            optuna.trial.create_trial(
                state=state, values=values, params=known, distributions=distributions, user_attrs=attributes
            )
        )

    def _find_arm(self, space: ArmSpace, params: Params, *, is_default: bool) -> Arm:
        """The arm with these settings: a known arm if one has the same configuration."""
        resolved: Resolved = space.default if is_default else space.resolve(params)
        identity = space.identify(resolved)
        if identity in self._names:
            return self.arms[self._names[identity]]
        prefix = f"{space.label}," if space.label else ""
        baseline = f"{prefix}trial=defaults"
        name = baseline if is_default else f"{prefix}trial={run_id(identity, 0)[:8]}"
        axes = {**{axis: level.label for axis, level in space.fixed.items()}, **params}
        return Arm(name, axes, {}, baseline, resolved.setup, resolved.notices, identity, resolved.start)

    def _add(self, arm: Arm, params: Params) -> None:
        self.arms[arm.name], self._params[arm.name] = arm, params
        self._names[arm.identity] = arm.name

    def _write(self) -> None:
        if not self.is_read_only:
            self.store.write_study(record_study(self.plan, self.version, self.command))

    def runs_of(self, arm: Arm) -> tuple[Run, ...]:
        """The runs of a trial."""
        return self._finals.runs_of(arm)

    def has_ended(self, run: Run) -> bool:
        """Tell whether nothing of a run is left to train."""
        folder = self.store.run(run.run_id)
        return folder.has_ended(folder.read_status(), cut_counts=self.keeps_cut(run))
