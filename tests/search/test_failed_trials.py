"""`ablate search`, and `ablate run` with `tune:`, say which runs failed, with which error, and what to do."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretended import RATE, end_run

from ablate import cli
from ablate.execution.jobs import RunSource, count_states, record_study
from ablate.execution.progress import Outcome
from ablate.plan import Plan, Run
from ablate.search import run as search_run
from ablate.tracking.folders import StudyFolder

SPACE = {"low": 1e-4, "high": 1e-2}
ERROR = """Traceback (most recent call last):
  File "worker.py", line 1, in train
    compile()
CompilerError: list indices must be integers

Set VERBOSE=1 for more
"""

Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ablate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ablate:
    """A function that runs a command without training; runs for which `fails` is true end with an error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path, fails: Callable[[Plan, Run], bool], halted: str = "") -> tuple[int, str, str]:
        def run_study(plan: Plan, store: StudyFolder, *_: Any, source: RunSource | None = None, **__: Any) -> Outcome:
            waiting, runs = deque(plan.runs), []
            while waiting or (source is not None and (waiting := deque(source.draw()))):
                run = waiting.popleft()
                state = "failed" if fails(plan, run) else "finished"
                end_run(store, run, 1.0 + run.arm.train.learning_rate, state)
                if state == "failed":
                    folder = store.run(run.run_id)
                    folder.write_status(replace(folder.read_status(), error=ERROR))
                if source is not None:
                    source.tell(run, state)
                runs.append(run.run_id)
            if source is None:
                store.write_study(record_study(plan, "0", ""))
            return Outcome(count_states(store, runs), interrupted=False, halted=halted)

        monkeypatch.setattr(search_run, "run_study", run_study)
        monkeypatch.setattr(sys, "argv", ["ablate", *map(str, words), "--quiet"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def is_differential(_plan: Plan, run: Run) -> bool:
    return run.arm.model.attention.name == "differential"


def test_a_grid_whose_trials_fail_says_of_which_arms_why_and_what_to_do(
    ablate: Ablate, write_grid: Callable[..., Path]
) -> None:
    code, out, err = ablate("run", write_grid(tune={"space": {RATE: SPACE}, "trials": 3}), fails=is_differential)
    first = next(iter(StudyFolder(Path("runs/tiny-tune")).failed_runs()))
    assert code == 1, out + err
    assert err == (
        "error: tiny-tune: 6 of 12 runs failed: 3 of attention=differential,normalization=prenorm, "
        "3 of attention=differential,normalization=ngpt\n"
        f"error: first failure, {first.arm},seed={first.seed}: CompilerError: list indices must be integers\n"
        f"error: traceback: ablate logs {first.run_id}\n"
        "error: the matrix needs the trials of every arm: the same command tries them again, "
        "or leave the arm out of the grid\n"
    )
    assert not Path("runs/tiny").exists()


def test_a_search_of_one_arm_whose_trials_fail_says_why_and_what_to_do(
    ablate: Ablate, write_search: Callable[..., Path], tmp_path: Path
) -> None:
    places = "search", write_search(trials=2, space={RATE: SPACE}), "--runs", tmp_path / "elsewhere"
    code, _, err = ablate(*places, fails=lambda _plan, run: run.arm.name == "trial=defaults")
    (first,) = StudyFolder(tmp_path / "elsewhere" / "tiny").failed_runs()
    assert code == 1
    assert err.startswith("error: tiny: 1 of 2 runs failed\nerror: first failure, trial=defaults,seed=")
    assert f"ablate logs {first.run_id} --runs {tmp_path / 'elsewhere'}\n" in err
    assert err.endswith("error: the same command tries them again\n")


def test_a_confirmation_whose_runs_fail_is_named(ablate: Ablate, write_search: Callable[..., Path]) -> None:
    def fails(plan: Plan, run: Run) -> bool:
        return plan.study.name == "tiny-confirm" and run.arm.axes["settings"] == "best"

    code, _, err = ablate("search", write_search(), fails=fails)
    assert code == 1
    assert err.startswith("error: tiny-confirm: 2 of 4 runs failed: 2 of normalization=ngpt,settings=best\n")


def test_a_search_that_gives_up_says_why(ablate: Ablate, write_search: Callable[..., Path]) -> None:
    code, _, err = ablate("search", write_search(), fails=is_differential, halted="runs/tiny: No space left on device")
    assert (code, err) == (1, "error: gave up: runs/tiny: No space left on device\n")
