"""A study with `until: decided`, with runs that end without training, in any order and with any interruption."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.execution.affinity import Affinity
from ablate.execution.jobs import find_unfinished
from ablate.execution.progress import Event
from ablate.plan import Plan, Run, build_plan
from ablate.sequential.open_arms import OpenArms
from ablate.study import load_study
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import State, Status

RULE = {"at_least": 3, "at_most": 7, "until": "decided"}
LOSSES = np.random.default_rng(4).normal(3, 0.01, (4, 7)) + np.array([[0.0], [0.4], [0.03], [0.0]])
MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(write_grid: Callable[..., Path], corpus_info: CorpusInfo) -> MakePlan:
    def make(**changes: Any) -> Plan:
        return build_plan(load_study(write_grid(**{"seeds": RULE, **changes})), corpus_info)

    return make


def end_run(store: StudyFolder, run: Run, arms: list[str], state: State = "finished") -> None:
    """Write the files of a run that ended at its loss in `LOSSES`."""
    folder = store.run(run.run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    with CurveWriter(folder.curve) as curve:
        curve.rewind(0, 0)
        for step, extra in ((6, 1.0), (12, 0.0)):
            loss = float(LOSSES[arms.index(run.arm.name), run.seed % 7]) + extra
            curve.append({"step": step, "tokens": step * 64, "wall_s": 0.1 * step, "val_loss": loss})
        extent = (curve.n_bytes, curve.crc32)
    folder.write_status(Status(state, step=12, n_steps=12, took_s=0.3, curve=extent))


def drive(
    plan: Plan, store: StudyFolder, rng: random.Random, workers: int = 1, ends_after: int = 10_000
) -> tuple[list[Run], OpenArms]:
    """Stand in for the driver: train in random order, and stop after some runs as if killed. Returns the runs ended."""
    events: list[Event] = []
    source = OpenArms(plan, store, events.append, version="0")
    waiting = find_unfinished(source.plan, store)
    store.write_study(source.record)
    busy: list[Run] = []
    ended: list[Run] = []
    arms = [arm.name for arm in plan.arms]
    while len(ended) < ends_after:
        waiting, busy = ([run for run in runs if source.is_needed(run)] for runs in (waiting, busy))
        while len(busy) < workers and (waiting or (waiting := [*source.draw()])):
            busy.append(waiting.pop(0))
        if not busy:
            break
        run = busy.pop(rng.randrange(len(busy)))
        end_run(store, run, arms)
        source.tell(run, "finished")
        ended.append(run)
    assert all(event.kind == "notice" and event.text.startswith("look after") for event in events)
    return ended, source


def verdicts(store: StudyFolder) -> list[Any]:
    return [(look["seeds"], look["arms"]) for look in store.read_study().looks]


def test_decided_arms_train_no_more_and_the_baseline_trains_while_one_is_open(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, store = make_plan(), StudyFolder(tmp_path / "tiny")
    assert {run.seed for run in plan.runs} == {0, 1, 2} and len(plan.possible_runs) == 4 * 7
    ended, source = drive(plan, store, random.Random(0))
    record = store.read_study()
    decided = {
        row["arm"]: look["seeds"] for look in record.looks for row in look["arms"] if row["verdict"] != "undecided"
    }
    seeds = {arm.name: sum(run.arm is arm for run in ended) for arm in plan.arms}
    base, *others = (arm.name for arm in plan.arms)
    assert decided[others[0]] == 3
    assert {arm: seeds[arm] for arm in others} == {arm: decided.get(arm, 7) for arm in others}
    assert seeds[base] == max(seeds[arm] for arm in others)
    assert (source.n_left, source.draw()) == (0, ())
    assert sorted(run.run_id for run in record.runs) == sorted(run.run_id for run in ended)
    assert [event.what for event in record.history] == ["until decided"]


def test_arms_leave_the_seeds_of_trials_out(make_plan: MakePlan, tmp_path: Path) -> None:
    tune = {"space": {"train.learning_rate": [1e-3, 2e-3]}, "trials": 2, "seeds": [1, 20], "sampler": "GridSampler"}
    plan, store = make_plan(tune=tune), StudyFolder(tmp_path / "tiny")
    assert [run.seed for run in plan.runs][::4] == [0, 2, 3]
    ended, _ = drive(plan, store, random.Random(0))
    looks = store.read_study().looks
    assert {run.seed for run in ended} == {0, *range(2, 8)}
    assert [look["seeds"] for look in looks] == [3, 4, 5, 6, 7]
    assert all(row["n_pairs"] == look["seeds"] for look in looks for row in look["arms"])
    assert store.read_study().seed_rule.reserved == (1, 20)  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
def test_any_order_and_any_interruption_give_the_same_looks(make_plan: MakePlan, tmp_path: Path, workers: int) -> None:
    plan, store = make_plan(), StudyFolder(tmp_path / "undisturbed")
    drive(plan, store, random.Random(0))
    other = StudyFolder(tmp_path / "tiny")
    rng = random.Random(workers)
    for _ in range(60):
        ended, source = drive(plan, other, rng, workers, rng.randint(1, 4))
        if not ended:
            break
    assert not ended and not source.n_left
    assert verdicts(other) == verdicts(store)
    assert {run.run_id for run in other.read_study().runs} >= {run.run_id for run in store.read_study().runs}


def test_workers_go_on_with_open_arms_while_a_look_waits(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, store = make_plan(), StudyFolder(tmp_path / "tiny")
    arms = [arm.name for arm in plan.arms]
    source = OpenArms(plan, store, lambda _: None)
    slow = next(run for run in plan.runs if run.seed == 2 and run.arm.name == arms[3])
    for run in plan.runs:
        if run is not slow:
            end_run(store, run, arms)
            source.tell(run, "finished")
    assert [(run.arm.name, run.seed) for _ in range(5) for run in source.draw()] == [
        *((arm, 3) for arm in arms),
        (arms[0], 4),
    ]
    end_run(store, slow, arms)
    source.tell(slow, "finished")
    early = next(run for run in plan.possible_runs if run.seed == 3 and run.arm.name == arms[1])
    assert not source.is_needed(early)  # the look decided its arm while it was in training
    assert early.run_id not in {run.run_id for run in source.plan.runs}


def test_a_worker_goes_on_with_the_kinds_that_it_knows(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(train={"steps": 12, "batch_size": 4, "compile": True})
    source = OpenArms(plan, StudyFolder(tmp_path / "tiny"), lambda _: None)
    kinds = [arm.setup.compiled_kind or "" for arm in plan.arms]
    drawn = [run for _ in range(3) for run in source.draw(Affinity({kinds[2]}, set(kinds) - {kinds[2]}))]
    known, other = plan.arms[2].name, plan.arms[0].name
    assert [(run.arm.name, run.seed) for run in drawn] == [(known, 3), (known, 4), (other, 3)]


def test_a_failed_run_stops_its_family_until_it_is_trained(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, store = make_plan(), StudyFolder(tmp_path / "tiny")
    arms = [arm.name for arm in plan.arms]
    source = OpenArms(plan, store, lambda _: None)
    for run in plan.runs[:-1]:
        end_run(store, run, arms)
        source.tell(run, "finished")
    source.tell(plan.runs[-1], "failed")
    assert source.draw() == () and not source.course.looks
    again, _ = drive(plan, store, random.Random(0))
    assert again[0].run_id == plan.runs[-1].run_id and len(verdicts(store)) == 5


def test_a_diverged_run_is_over(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, store = make_plan(), StudyFolder(tmp_path / "tiny")
    arms = [arm.name for arm in plan.arms]
    for run in plan.runs:
        end_run(store, run, arms, "diverged" if run is plan.runs[1] else "finished")
    source = OpenArms(plan, store, lambda _: None)
    assert {row.arm: row.n_pairs for row in source.course.looks[0].arms}[plan.runs[1].arm.name] == 2


def test_what_a_look_has_spent_cannot_be_declared_again(make_plan: MakePlan, tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "tiny")
    drive(make_plan(), store, random.Random(0), ends_after=12)
    for changes, words in (
        ({"seeds": RULE | {"at_most": 9}}, "grid.yaml:.*seeds: 1 look at tiny followed another value"),
        ({"smallest_effect": 0.5}, "smallest_effect: 1 look"),
        ({"exclude": "attention == 'differential' and normalization == 'ngpt'"}, "matrix: 1 look"),
    ):
        with pytest.raises(GridError, match=words):
            OpenArms(make_plan(**changes), store, lambda _: None)
    OpenArms(make_plan(), store, lambda _: None)


def test_with_retry_failed_no_further_seed_is_drawn(make_plan: MakePlan, tmp_path: Path) -> None:
    source = OpenArms(make_plan(), StudyFolder(tmp_path / "tiny"), lambda _: None, only_failed=True)
    assert (source.n_left, source.draw()) == (0, ())
