"""The finalists of `tune:`: who they are, what they run, and what a process that takes over finds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pretended import RATE, end_run, quadratic, train

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.execution.affinity import Affinity
from ablate.formatting import count
from ablate.plan import Run
from ablate.search.arm_search import best_of
from ablate.search.conclusions import state_conclusions
from ablate.search.cost import describe_left, describe_tuning
from ablate.search.follow_up import plan_tuned
from ablate.search.pose import pose_tuning
from ablate.search.result import summarize
from ablate.search.trials import Trials
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder

LADDER = {"space": {RATE: [1e-3, 1e-2, 3e-2, 1e-1]}, "trials": 4, "sampler": "GridSampler", "budget": 6}


def noisy(run: Run) -> float:
    """With the first seed, 3e-2 looks as good as 1e-2. With the others, it is far worse."""
    luck = {5: -0.3, 6: 0.5, 7: 0.5}[run.seed] if run.arm.train.learning_rate == 3e-2 else 0.0
    return quadratic(run) + luck


@pytest.mark.parametrize("stop", [0, 3, 15, 17, 19, 23])
@pytest.mark.parametrize("screen", [{}, {"screen": 0.3, "budget": {"steps": 12}}])
def test_finalists_run_with_all_seeds_and_decide(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path, screen: dict, stop: int
) -> None:
    """The others keep one seed, and a process that dies anywhere loses and repeats nothing."""
    study = load_study(write_grid(seeds=2, tune={**LADDER, "seeds": [5, 6, 7], "finalists": 2, **screen}))
    problem = pose_tuning(study, corpus_info)
    store = StudyFolder(tmp_path / "runs" / problem.name)
    first = train(Trials(problem, store), limit=stop, loss=noisy)
    trials = Trials(problem, store)
    stage, end = ("with one seed for 30 % of their steps", " to the end") if screen else ("with one seed", "")
    assert next(iter(describe_tuning(trials, 1, None))).startswith(
        f"tune: 4 trials for each of 4 arms {stage}, the best 2 of each arm{end} with 3 seeds"
    )
    plan = describe_left(Trials(problem, store, is_read_only=True), 1, None)
    second = train(trials, loss=noisy)
    parts = " or parts of runs" if screen else ""  # a trial that waits and goes on counts twice
    assert (f"{count(len(second), 'more run')}{parts}, " if second else "none is left") in plan
    run_ids = [run.run_id for run in (*first, *second)]
    assert len(set(run_ids)) == 4 * (4 + 2 * 2)
    assert len(run_ids) == len(set(run_ids)) + (4 * 2 if screen else 0)  # a finalist that waited goes on
    lengths = Counter(store.run(run_id).read_status().step for run_id in set(run_ids))
    assert lengths == ({4: 4 * 2, 12: 4 * 6} if screen else {6: 4 * 8})
    assert trials.n_open == trials.n_left == 0
    assert {run.run_id for run in trials.plan.runs} == set(run_ids) == {run.run_id for run in store.read_study().runs}
    for search in trials.searches:
        values = {trial.params[RATE]: trial.value for trial in search.trials}
        assert min(values, key=lambda rate: values[rate]) == 3e-2
        assert best_of(search).params[RATE] == 1e-2
    assert {arm.train.learning_rate for arm in plan_tuned(problem, study, trials).arms} == {1e-2}
    summary = summarize(problem, trials, store, "1")
    assert [sum("final" in row for row in arm["history"]) for arm in summary["arms"]] == [2] * 4
    chosen_by = 3.005 if screen else 1.005  # in the curve, the loss falls by 1 with each evaluation
    told = "".join(state_conclusions(summary))
    assert f"best finalist (1.006; {chosen_by} when finalists were chosen" in told


def test_workers_keep_to_their_arms_and_no_arm_gets_far_ahead(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    matrix = {"normalization": ["prenorm", "ngpt"], "attention": ["standard", "selective"]}
    train_compiled = {"steps": 12, "batch_size": 4, "compile": True}
    study = load_study(write_grid(matrix=matrix, train=train_compiled, tune={**LADDER, "seeds": [5]}))
    problem = pose_tuning(study, corpus_info)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / problem.name))
    train(trials, limit=4)  # the defaults of each arm
    loaded: tuple[set[str], set[str]] = (set(), set())
    n_drawn = 0
    while True:
        before = n_drawn
        for own, others in (loaded, loaded[::-1]):
            for run in trials.draw(Affinity(own, others)):
                own.add(run.arm.setup.compiled_kind or "")
                end_run(trials.store, run, 1.0)
                trials.tell(run, "finished")
                n_drawn += 1
        begun = [len(search.trials) for search in trials.searches]
        assert max(begun) - min(begun) <= 2
        if n_drawn == before:
            break
    assert begun == [4] * 4 and n_drawn == 12 and [len(own) for own in loaded] == [2, 2]


def test_a_finalist_that_diverges_gives_its_place_to_the_next(
    write_grid, corpus_info: CorpusInfo, tmp_path: Path
) -> None:
    arms = {"matrix": {"normalization": ["prenorm", "ngpt"]}, "baseline": {"normalization": "prenorm"}}
    problem = pose_tuning(load_study(write_grid(**arms, tune={**LADDER, "seeds": [5, 6], "finalists": 1})), corpus_info)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / problem.name))
    train(trials, limit=8)
    search, _ = trials.searches
    run, _ = trials.draw()
    assert run.arm.train.learning_rate == 1e-2
    assert trials.n_open == 2
    end_run(trials.store, run, 1.0, "diverged")
    trials.tell(run, "diverged")
    (other,) = trials.draw()
    assert other.arm.train.learning_rate == 3e-2
    end_run(trials.store, other, 1.0)
    trials.tell(other, "finished")
    assert best_of(search).params[RATE] == 3e-2
    assert trials.n_open == 1


@pytest.mark.parametrize(
    ("tune", "reason"),
    [
        ({"finalists": 2}, "give two seeds, or screen"),
        ({"screen": 0.5}, "give finalists too"),
        ({"finalists": 2, "screen": 1.0}, "less than 1"),
        ({"finalists": 2, "screen": 0.5, "pruner": "MedianPruner"}, "give one of them"),
        ({"finalists": 4, "seeds": 3}, "4 finalists of 4 trials"),
        ({"finalists": 0, "seeds": 3}, "greater than 0"),
        ({"finalists": True, "seeds": 3}, "integer"),
    ],
)
def test_finalists_that_mean_nothing_are_refused(write_grid, tune: dict, reason: str) -> None:
    with pytest.raises(GridError, match=reason):
        load_study(write_grid(tune={**LADDER, **tune}))


def test_finalists_cannot_change_under_finished_trials(write_grid, corpus_info: CorpusInfo, tmp_path: Path) -> None:
    tune = {**LADDER, "seeds": [5, 6]}
    problem = pose_tuning(load_study(write_grid(tune={**tune, "finalists": 1})), corpus_info)
    store = StudyFolder(tmp_path / "runs" / problem.name)
    train(Trials(problem, store), limit=3)
    for other in ({}, {"finalists": 2}):
        with pytest.raises(GridError, match="was run before with other `finalists`"):
            Trials(pose_tuning(load_study(write_grid(tune={**tune, **other})), corpus_info), store)
