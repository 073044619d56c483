"""The runs of a study with `until: decided`, which depend on the results of the runs before them.

While a look waits for runs that still train, idle workers go on with the next seeds of the arms that are open. Which
runs a worker was given by then depends on the machine; the looks do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from ablate.analysis.curve_columns import EMPTY_CURVE
from ablate.analysis.looks import Course, follow
from ablate.analysis.results import Known, assemble, read_run
from ablate.execution.affinity import NO_AFFINITY, Affinity
from ablate.execution.jobs import RunSource, record_rule, record_study
from ablate.execution.progress import Event, Observer
from ablate.plan import Plan, Run
from ablate.sequential.sentences import describe_look
from ablate.tracking.folders import StudyFolder
from ablate.tracking.history import continue_history
from ablate.tracking.study_record import State, Status, StudyRecord

_QUEUED = Known(Status("queued"), EMPTY_CURVE.columns, {}, {})


class OpenArms(RunSource):
    """Draws further seeds of the arms that are not decided. The study's record on disk grows with every run and look.

    `plan` has the runs before the first look. With `only_failed`, nothing is drawn. Raises `GridError` if earlier looks
    followed another rule, or judged other arms: their error rates are spent.
    """

    def __init__(
        self,
        plan: Plan,
        store: StudyFolder,
        observe: Observer,
        *,
        version: str = "",
        command: str = "",
        only_failed: bool = False,
    ) -> None:
        rule = record_rule(plan)
        assert rule is not None
        self.first, self.store, self.observe = plan, store, observe
        self.version, self.command, self.only_failed = version, command, only_failed
        self.rule = rule
        self._runs = {(run.arm.name, run.seed): run for run in plan.possible_runs}
        self._over: dict[str, Known] = {}  # by run id
        self._drawn = {run.run_id for run in plan.runs}
        self._failed: set[str] = set()
        self.course = Course()
        for run in self._runs.values():
            self._note(run)
        self.course = self._follow()
        self._check_earlier_looks()

    @property
    def plan(self) -> Plan:
        """The runs that have ended, are in training, or are certain to train."""
        runs = tuple(run for run in self._runs.values() if run.run_id in self._over or self._is_asked_for(run))
        return replace(self.first, runs=runs)

    @property
    def record(self) -> StudyRecord:
        return self.complete(record_study(self.plan, self.version, self.command))

    def complete(self, record: StudyRecord) -> StudyRecord:
        """Add the looks so far, and the history."""
        looks = tuple(look.to_dict() for look in self.course.looks)
        return replace(continue_history(record, self.store), looks=looks)

    @property
    def n_left(self) -> int:
        return sum(1 for _ in self._further_runs())

    def draw(self, affinity: Affinity = NO_AFFINITY) -> Sequence[Run]:
        """A run of an open arm, or of its baseline, with the next seed or the one after it."""
        run = affinity.choose(self._further_runs(), lambda run: run.seed)
        if run is None:
            return ()
        self._drawn.add(run.run_id)
        self.store.write_study(self.record)
        return (run,)

    def tell(self, run: Run, state: State) -> None:
        """Take the looks for which the runs have now ended."""
        if state == "failed":
            self._failed.add(run.run_id)
            return
        self._note(run)
        before, self.course = self.course, self._follow()
        new = [look for look in self.course.looks if look not in before.looks]
        if new:
            self.store.write_study(self.record)
        for look in new:
            self.observe(Event("notice", text=describe_look(look, self.rule.at_most)))

    def is_needed(self, run: Run) -> bool:
        return run.seed in self.rule.seeds[: self.rule.at_least] or self.course.is_open(run.arm.name, run.arm.baseline)

    def _is_asked_for(self, run: Run) -> bool:
        return run.run_id in self._drawn and self.is_needed(run)

    def _further_runs(self) -> Iterator[Run]:
        """Runs that were not drawn yet. A family whose look waits for a run that failed has none."""
        is_blocked = cache(self._is_blocked)
        for run in self._runs.values():
            is_new = run.run_id not in self._drawn and run.run_id not in self._over
            if is_new and not self.only_failed and self.is_needed(run) and not is_blocked(run.arm.baseline):
                yield run

    def _is_blocked(self, baseline: str) -> bool:
        seeds = self.rule.seeds[: self.course.next_look.get(baseline, 0)]
        arms = (baseline, *self.course.open.get(baseline, ()))
        return any(self._runs[arm, seed].run_id in self._failed for arm in arms for seed in seeds)

    def _note(self, run: Run) -> None:
        """Remember the result of a run that has ended. Its curve no longer changes."""
        folder = self.store.run(run.run_id)
        if folder.has_ended(folder.read_status(), cut_counts=False):
            self._over[run.run_id] = read_run(self.store, run.run_id)

    def _follow(self) -> Course:
        record = record_study(self.plan, self.version, self.command)
        known = {run.run_id: self._over.get(run.run_id, _QUEUED) for run in record.runs}
        return follow(assemble(record, known, str(self.store.record)), self.rule)

    def _check_earlier_looks(self) -> None:
        if not self.store.record.exists():
            return
        before = self.store.read_study()
        if not before.looks or before.seed_rule is None:
            return
        n = len(before.looks)
        changes = {
            ("seeds",): (before.seed_rule, self.rule),
            ("smallest_effect",): (before.smallest_effect, self.first.smallest_effect),
            ("matrix",): (_families(before), _families(self.record)),
        }
        for keys, (earlier, now) in changes.items():
            if earlier != now:
                what = f"{n} {'look' if n == 1 else 'looks'} at {before.study} followed another value of this key"
                advice = "undo the change, or give the study another name"
                raise self.first.study.refuse(keys, f"{what}, and their error rate is spent: {advice}")


def _families(record: StudyRecord) -> Mapping[str, str]:
    """Each compared arm with its baseline."""
    return {arm.arm: arm.baseline for arm in record.arms if arm.arm != arm.baseline}
