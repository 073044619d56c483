"""Choices and remarks of a plan that depend on shapes and steps only."""

from __future__ import annotations

import pytest

from ablate.errors import GridError
from ablate.plan import build_plan
from ablate.plan.compiling import COMPILED_FLOPS
from ablate.study import load_study

LARGE = {"d_model": 1024, "n_layers": 12, "n_heads": 16, "context_length": 1024}


def plan(write_grid, corpus_info, *settings, **changes):
    return build_plan(load_study(write_grid(**changes), list(settings)), corpus_info)


def test_auto_compiles_long_runs_and_changes_no_id(write_grid, corpus_info):
    usual = plan(write_grid, corpus_info, "train.steps=100000")
    for steps, compiles in ((100, False), (10_000_000, True)):
        chosen = plan(write_grid, corpus_info, f"train.steps={steps}", "train.compile=auto")
        for run in chosen.runs:
            assert run.arm.train.compile is compiles
            assert run.arm.setup.facts["compile"] is compiles
            assert (run.arm.n_tokens * run.arm.flops_per_token >= COMPILED_FLOPS) is compiles
        assert any(notice.startswith("train.compile auto: ") for notice in chosen.notices)
    same = plan(write_grid, corpus_info, "train.steps=100000", "train.compile=auto")
    assert [run.run_id for run in same.runs] == [run.run_id for run in usual.runs]
    assert not any(run.arm.train.compile for run in usual.runs)


def test_another_value_of_compile_gets_one_message(write_grid, corpus_info):
    with pytest.raises(GridError, match=r"train\.compile: must be true, false or auto, got 'maybe'"):
        plan(write_grid, corpus_info, "train.compile=maybe")


def test_several_gpus_that_slow_down_a_small_model_are_remarked(write_grid, corpus_info):
    small = plan(write_grid, corpus_info, resources={"gpus": 2})
    assert any("one GPU with train.cuda_graph is probably faster" in notice for notice in small.notices)
    graphed = plan(write_grid, corpus_info, "train.cuda_graph=true", resources={"gpus": 2})
    assert any("resources.gpus 2: a run gains little" in notice for notice in graphed.notices)
    large = plan(write_grid, corpus_info, "train.batch_size=16", resources={"gpus": 2}, model=LARGE)
    assert not any("resources.gpus" in notice for notice in large.notices)
    alone = plan(write_grid, corpus_info, resources={"gpus": 1})
    assert not any("resources.gpus" in notice for notice in alone.notices)
