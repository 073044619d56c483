"""Workers keep to the kinds of model whose compiled code they have loaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from ablate.data import CorpusInfo
from ablate.execution.affinity import NO_AFFINITY
from ablate.execution.driver import Driver, DriverOptions
from ablate.execution.interruption import TimeLimit
from ablate.execution.jobs import RunSource
from ablate.execution.placement import Placement
from ablate.execution.slots import Slot
from ablate.plan import Plan, Run, build_plan
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder

ATTENTIONS = ["standard", "differential", "selective", "differential_v2"]
MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(write_grid: Callable[..., Path], corpus_info: CorpusInfo) -> MakePlan:
    """A function that plans four kinds of model, each with two learning rates and three seeds."""

    def make(*, compile_: bool = True, **changes: Any) -> Plan:
        declared = {
            "matrix": {"attention": ATTENTIONS, "train.learning_rate": [1e-3, 2e-3]},
            "baseline": {"attention": "standard"},
            "compare_within": ["train.learning_rate"],
            "train": {"steps": 20, "batch_size": 2, "compile": compile_},
            "seeds": 3,
        }
        return build_plan(load_study(write_grid(**(declared | changes))), corpus_info)

    return make


class Floor:
    """A driver with workers that never answer. The test says when a run has ended."""

    def __init__(self, plan: Plan, folder: Path, n_slots: int, options: DriverOptions) -> None:
        placement = Placement(1, 0, n_slots)
        self.driver = Driver(plan, StudyFolder(folder / "tiny"), None, placement, Mock(), lambda _: None, options)
        for _ in range(n_slots):
            slot = Slot(placement, folder, None, self.driver.pool.worker_class)
            slot.workers = [SimpleNamespace(train_all=SimpleNamespace(remote=lambda _: object()))]
            self.driver.pool.slots.append(slot)

    def train(self, runs: Sequence[Run], turns: Sequence[int] = (0,)) -> list[tuple[int, Run]]:
        """Hand out all runs. The slots of `turns` end their runs one after another, again and again. Return
        which worker trained which run, in order."""
        waiting, given = deque(runs), []
        slots, busy, turn = self.driver.pool.slots, set(), 0
        while True:
            self.driver._hand_out(waiting)
            for index, slot in enumerate(slots):
                if slot.runs and index not in busy:
                    given += [(index, run) for run in slot.runs]
                    busy.add(index)
            if not busy:
                return given
            while turns[turn % len(turns)] not in busy:
                turn += 1
            index = turns[turn % len(turns)]
            turn += 1
            busy.discard(index)
            slots[index].runs = ()


def loads(given: Sequence[tuple[int, Run]]) -> int:
    """How often any worker loads the code of a kind."""
    return len({(worker, run.arm.model.attention.name) for worker, run in given})


@pytest.fixture
def make_floor(tmp_path: Path) -> Callable[..., Floor]:
    return lambda plan, n_slots, **options: Floor(plan, tmp_path, n_slots, DriverOptions(**options))


def test_each_of_two_workers_loads_half_of_the_kinds(make_plan: MakePlan, make_floor: Callable[..., Floor]) -> None:
    plan = make_plan()
    given = make_floor(plan, 2).train(plan.runs, turns=(0, 1))
    assert loads(given) == 4 and sorted(run.run_id for _, run in given) == sorted(run.run_id for run in plan.runs)
    seeds = [run.seed for _, run in given]
    assert all(abs(seed - before) <= 1 for before, seed in pairwise(seeds))


def test_a_fast_worker_goes_one_seed_ahead_and_then_helps_the_slow_one(
    make_plan: MakePlan, make_floor: Callable[..., Floor]
) -> None:
    plan = make_plan()
    given = make_floor(plan, 2).train(plan.runs, turns=(0, 0, 0, 0, 1))
    left = {run.run_id for run in plan.runs}
    for _, run in given:
        begun = min(other.seed for other in plan.runs if other.run_id in left)
        assert run.seed <= begun + 1
        left.remove(run.run_id)
    assert not left and loads(given) > 4  # no worker was idle


def test_models_that_are_not_compiled_keep_their_order(make_plan: MakePlan, make_floor: Callable[..., Floor]) -> None:
    plan = make_plan(compile_=False)
    given = make_floor(plan, 2).train(plan.runs, turns=(0, 1))
    assert [run.run_id for _, run in given] == [run.run_id for run in plan.runs]


def test_the_level_that_is_held_out_still_comes_last(make_plan: MakePlan, make_floor: Callable[..., Floor]) -> None:
    matrix = {"attention": ATTENTIONS, "train.learning_rate": [1e-3], "train.steps": [20, 30, 40]}
    plan = make_plan(
        matrix=matrix, compare_within=["train.steps"], predict={"axis": "train.steps", "held_out": "largest"}, seeds=1
    )
    last = [run for run in plan.runs if run.arm.name in plan.held_out]
    first = [run for run in plan.runs if run.arm.name not in plan.held_out]
    given = make_floor(plan, 3).train([*first, *last], turns=(0, 1, 2))
    assert {run.run_id for _, run in given[: len(first)]} == {run.run_id for run in first}


def test_a_run_that_another_process_trains_is_not_preferred(
    make_plan: MakePlan, make_floor: Callable[..., Floor]
) -> None:
    plan = make_plan(seeds=1)
    floor, (held, *_, other) = make_floor(plan, 1), plan.runs
    floor.driver.pool.slots[0].kinds.add(held.arm.setup.compiled_kind)
    floor.driver._held_elsewhere.add(held.run_id)
    assert [run for _, run in floor.train([other, held])] == [other, held]


def test_no_run_begins_that_the_time_limit_does_not_allow(
    make_plan: MakePlan, make_floor: Callable[..., Floor]
) -> None:
    """The long run has a kind that the worker knows, and is not so short that it may not overtake."""
    plan = make_plan(matrix={"attention": ATTENTIONS, "train.steps": [20, 30]}, compare_within=["train.steps"], seeds=1)
    limit = TimeLimit(0.1, clock=lambda: 0.0)  # 6 s
    for run in plan.runs:
        limit.learn(run, 0.25 * run.arm.train.steps)
    short = [run for run in plan.runs if run.arm.train.steps == 20]
    floor = make_floor(plan, 1, limit=limit)
    floor.driver.pool.slots[0].kinds.update(run.arm.setup.compiled_kind or "" for run in plan.runs[1:])
    looked_at = floor.driver._choose(
        deque([short[0], *(run for run in plan.runs if run is not short[0])]), floor.driver.pool.slots[0]
    )
    assert looked_at.arm.train.steps == 20 and not limit.is_over
    assert [run for _, run in floor.train(plan.runs)] == short and limit.is_over


def test_a_short_run_does_not_overtake_a_long_one(make_plan: MakePlan, make_floor: Callable[..., Floor]) -> None:
    plan = make_plan(
        matrix={"attention": ATTENTIONS, "train.steps": [20, 2000]}, compare_within=["train.steps"], seeds=1
    )
    runs = sorted(plan.runs, key=lambda run: -run.arm.train.steps)
    given = make_floor(plan, 2).train(runs, turns=(0, 1))
    assert [run.arm.train.steps for _, run in given] == [2000] * 4 + [20] * 4
    assert loads(given) == 4


def test_a_lost_worker_knows_nothing(make_plan: MakePlan, make_floor: Callable[..., Floor]) -> None:
    plan = make_plan(seeds=1)
    floor = make_floor(plan, 1)
    slot = floor.driver.pool.slots[0]
    floor.train(plan.runs[:1])
    assert slot.kinds == {plan.runs[0].arm.setup.compiled_kind}
    slot.workers = []
    slot.dismiss()
    assert not slot.kinds


def test_a_slot_forgets_its_kinds_when_the_worker_does(
    make_plan: MakePlan, make_floor: Callable[..., Floor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.execution.slots.MAX_KINDS", 3)
    plan = make_plan(seeds=1)
    floor = make_floor(plan, 1)
    floor.train(plan.runs)
    assert floor.driver.pool.slots[0].kinds == {plan.runs[-1].arm.setup.compiled_kind}


def test_seeds_of_an_arm_that_train_as_a_stack_stay_together(
    make_plan: MakePlan, make_floor: Callable[..., Floor]
) -> None:
    plan = make_plan(
        matrix={"attention": ["standard", "differential"], "train.learning_rate": [1e-3, 2e-3]},
        resources={"stack": "seeds"},
    )
    given = make_floor(plan, 2).train(plan.runs, turns=(0, 1))
    assert [run.seed for _, run in given] == [0, 1, 2] * 4 and loads(given) == 2


class Empty(RunSource):
    """A source without runs that notes who asked."""

    def __init__(self) -> None:
        self.asked: list[frozenset[str]] = []

    @property
    def n_left(self) -> int:
        return 0

    def draw(self, affinity=NO_AFFINITY):
        self.asked.append(frozenset(affinity.own))
        return ()

    def tell(self, run, state) -> None: ...


def test_a_source_hears_which_worker_is_idle(make_plan: MakePlan, make_floor: Callable[..., Floor]) -> None:
    plan, source = make_plan(seeds=1), Empty()
    floor = make_floor(plan, 3, source=source)
    floor.driver.pool.slots[0].workers = []  # lost, and the cluster has no room for another
    floor.train(plan.runs[::2], turns=(2, 2, 2, 1))
    assert set(map(len, source.asked)) == {1, 3} and len(frozenset().union(*source.asked)) == 4
