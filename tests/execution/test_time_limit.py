"""Which runs a limit of minutes allows to start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.execution.interruption import TimeLimit
from ablate.plan import Run, build_plan
from ablate.plan.setup import ModelSetup
from ablate.study import load_study


def test_a_run_is_expected_to_be_as_fast_as_its_network(
    write_grid: Callable[..., Path], corpus_info: CorpusInfo
) -> None:
    now = [0.0]
    plan = build_plan(load_study(write_grid()), corpus_info)
    fast, slow, unknown, _ = plan.runs
    limit = TimeLimit(1, clock=lambda: now[0])
    assert limit.allows(slow)  # no pace is known, and there is time
    limit.learn(fast, 10)
    limit.learn(slow, 40)
    limit.learn(unknown, 0)  # a run that took no time says nothing about the pace
    now[0] = 30
    assert limit.allows(fast)
    assert not limit.is_over
    assert not limit.allows(slow)
    assert not limit.allows(unknown)  # assumed as slow as the slowest
    assert limit.is_over
    assert limit.allows(fast)  # a run that still fits may start
    assert limit.allows(_of_steps(slow, slow.arm.train.steps // 2))
    now[0] = 51
    assert not limit.allows(fast)


def test_a_run_that_was_stopped_by_the_time_was_never_resumed(
    write_grid: Callable[..., Path], corpus_info: CorpusInfo
) -> None:
    now = [0.0]
    finished, begun, new, _ = build_plan(load_study(write_grid()), corpus_info).runs
    limit = TimeLimit(1, clock=lambda: now[0])
    limit.learn(finished, 3600)
    limit.mark_begun(begun)
    assert limit.allows(begun)
    assert not limit.allows(new)
    now[0] = 61
    assert limit.is_past()
    assert not limit.allows(begun)


def test_minutes_that_are_no_number_are_refused() -> None:
    with pytest.raises(GridError, match="--minutes nan"):
        TimeLimit(float("nan"))


def _of_steps(run: Run, steps: int) -> Run:
    train = run.arm.train.model_copy(update={"steps": steps})
    return replace(run, arm=replace(run.arm, setup=ModelSetup(run.arm.model, train)))
