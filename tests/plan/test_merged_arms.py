"""Levels without effect are one arm, with the id that the first of them has always had, and the plan says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import Plan, build_plan
from ablate.plan.identity import arm_identity, identify, run_id
from ablate.study import load_study

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 16}
TRAIN = {"steps": 12, "batch_size": 4, "eval_every": 4, "eval_tokens": 128}
PlanGrid = Callable[..., Plan]


@pytest.fixture
def plan_grid(write_grid: Callable[..., Path], corpus_info: CorpusInfo) -> PlanGrid:
    def plan(corpus: CorpusInfo = corpus_info, **changes: Any) -> Plan:
        return build_plan(load_study(write_grid(**{"baseline": None, **changes})), corpus)

    return plan


@pytest.mark.parametrize(
    ("model", "axis", "levels", "why"),
    [
        ({}, "model.attention.qk_norm_place", ["before_position", "after_position"], "there is no qk_norm"),
        (
            {"attention": {"name": "standard", "qk_norm": "rms"}, "position": "none"},
            "model.attention.qk_norm_place",
            ["before_position", "after_position"],
            "position none leaves queries and keys unchanged",
        ),
        ({}, "model.attention.window", [None, 16, 64], "all 16 tokens of a context"),
        (
            {"attention": {"name": "sink", "sink": "off_by_one"}},
            "model.attention.init",
            [0.0, 1.0],
            "the sink is fixed at 0",
        ),
        (
            {"normalization": {"name": "ngpt", "s_qk": {"mode": "fixed"}}},
            "model.normalization.s_qk.scale",
            [1.0, 2.0],
            "a fixed scale has no raw value",
        ),
        (
            {"normalization": "dyt", "linear": "bitnet_b158"},
            "model.normalization.attention_start",
            [0.5, 0.8],
            "bitnet_b158 normalizes its own input",
        ),
        ({"n_heads": 8}, "model.position.base", [100.0, 10000.0], "a query head of width 2 has one angle"),
        ({"n_layers": 1}, "model.value_residual", ["none", "half", "learned"], "no path has two layers"),
        (
            {"normalization": "ngpt", "attention": "differential"},
            "model.attention.has_output_scale",
            [True, False],
            "its factor cancels",
        ),
        (
            {"attention": {"name": "linear_ensemble", "num_maps": 2, "qk_head_dim": 2}},
            "model.attention.width",
            ["split", "full"],
            "qk_head_dim sets the width of a map",
        ),
        ({}, "train.min_learning_rate", [0.0, 1e-4], "a constant schedule does not fall"),
        ({}, "train.decay_fraction", [0.2, 0.5], "only schedule wsd reads it"),
        ({}, "train.muon_momentum", [0.9, 0.5], "only optimizer muon reads it"),
        ({}, "train.micro_batch_size", [2, 4], "when and where a run trains"),
        # defaults spelled out
        ({}, "model.attention.n_kv_heads", [None, 2], ""),
        ({}, "model.attention.qk_head_dim", [None, 8], ""),
        ({}, "model.d_ff", [None, 64], ""),
    ],
)
def test_levels_that_train_alike_are_one_arm_with_the_id_of_the_first(
    plan_grid: PlanGrid,
    corpus_info: CorpusInfo,
    model: Mapping[str, Any],
    axis: str,
    levels: list[Any],
    why: str,
) -> None:
    changes = {"model": {**SIZES, **model}, "train": {**TRAIN, "schedule": "constant"}}
    for first in (0, 1):
        turned = [levels[first], *levels[:first], *levels[first + 1 :]]
        single = plan_grid(matrix={axis: turned[:1]}, **changes)
        plan = plan_grid(matrix={axis: turned}, **changes)
        assert [run.run_id for run in plan.runs] == [run.run_id for run in single.runs]
        (arm,) = plan.arms
        assert arm.identity == arm_identity(arm.model, arm.train, corpus_info.hash)
        assert set(plan.stands_for.values()) == {arm.name}
        assert len(plan.stands_for) == len(levels) - 1
        told = [notice for notice in plan.notices if "stands for both" in notice]
        assert len(told) == 1
        assert (f"{axis} has no effect: " in told[0]) == bool(why)
        assert why in told[0]
        assert len(levels) == 2 or "the same holds for 1 more arm" in told[0]


def test_the_id_of_a_setting_that_decides_nothing_is_the_published_one(plan_grid: PlanGrid) -> None:
    """A grid with a window as long as the context was trained under this id before both were known to be the same."""
    plan = plan_grid(model=SIZES, train=TRAIN, matrix={"model.attention.window": [16]})
    assert plan.runs[0].run_id == "421e11ddd3a6c446"
    (notice,) = plan.arms[0].notices
    assert notice.startswith("attention.window 16 ")
    assert "all 16 tokens of a context" in notice
    config, train = plan.arms[0].model, plan.arms[0].train
    ((own, canonical),) = identify([(config, train)], "x")
    assert own == arm_identity(config, train, "x") != canonical
    assert canonical == arm_identity(config.canonical(), train.canonical(), "x")
    assert run_id(plan.arms[0].identity, 0) == plan.runs[0].run_id


def test_a_level_that_decides_nothing_in_one_arm_alone_is_merged_there_alone(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        model=SIZES,
        matrix={
            "model.attention.qk_norm": ["none", "rms"],
            "model.attention.qk_norm_place": ["before_position", "after_position"],
        },
    )
    assert len(plan.arms) == 3
    assert len(plan.stands_for) == 1


def test_arms_that_tuning_may_tell_apart_stay_apart(plan_grid: PlanGrid) -> None:
    axis, place = "model.attention.qk_norm_place", ["before_position", "after_position"]
    rate = {"train.learning_rate": [1e-3, 2e-3]}
    for space, n_arms in ((rate, 1), ({**rate, "model.attention.qk_norm": ["none", "rms"]}, 2)):
        plan = plan_grid(model=SIZES, matrix={axis: place}, tune={"space": space, "trials": 2})
        assert len(plan.arms) == n_arms


def test_matching_sizes_leaves_the_spelling_of_each_arm(plan_grid: PlanGrid) -> None:
    """Equal models share one search for a width, but keep their own settings and therefore their own ids."""
    changes: dict[str, Any] = {"model": SIZES, "match": "parameters", "baseline": {"attention": "standard"}}
    levels = [{"name": "gated", "window": 16}, {"name": "gated", "window": 64}]
    ids = []
    for level in levels:
        plan = plan_grid(matrix={"attention": ["standard", level]}, **changes)
        assert plan.arms[1].model.attention.window == level["window"]
        ids.append(plan.runs[1].run_id)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("train", "model", "n_validation", "told"),
    [
        ({"eval_every": 12}, {}, 100_000, "train.eval_every 12: a run of 12 steps has one evaluation, at its end"),
        ({"eval_every": 500}, {}, 100_000, "train.eval_every 500: a run of 12 steps has one evaluation"),
        ({"log_every": 13}, {}, 100_000, "train.log_every 13 is more than the 12 steps"),
        ({"checkpoint_every": 13}, {}, 100_000, "train.checkpoint_every 13 is more than the 12 steps"),
        ({"eval_tokens": 2000}, {}, 1000, "an evaluation takes all of its 992 tokens"),
        ({"eval_tokens": 8}, {}, 100_000, "train.eval_tokens 8 is less than a context: an evaluation takes 16"),
        ({"schedule": "wsd", "decay_fraction": 0.05}, {}, 100_000, "train.decay_fraction 0.05 is less than one step"),
        ({}, {}, 100_000, ""),
    ],
)
def test_a_setting_beyond_the_run_or_the_data_is_told(
    plan_grid: PlanGrid,
    corpus_info: CorpusInfo,
    train: dict[str, Any],
    model: dict[str, Any],
    n_validation: int,
    told: str,
) -> None:
    corpus = replace(corpus_info, n_train_tokens=9 * n_validation, n_validation_tokens=n_validation)
    plan = plan_grid(
        corpus, model={**SIZES, **model}, train={**TRAIN, **train}, matrix={"normalization": ["prenorm", "ngpt"]}
    )
    assert [told in notice for notice in plan.notices] == ([True] if told else [])


def test_a_warm_up_and_a_context_beyond_the_run_and_the_data_are_refused(plan_grid: PlanGrid) -> None:
    with pytest.raises(GridError, match="warmup_steps 12 leaves no step of 12"):
        plan_grid(train={**TRAIN, "warmup_steps": 12})
    with pytest.raises(GridError, match=r"context_length.*legal: at most 99999"):
        plan_grid(model={**SIZES, "context_length": 200_000})


def test_a_matrix_of_a_million_million_cells_is_refused_at_once(plan_grid: PlanGrid) -> None:
    rates = [index / 1e6 for index in range(1, 1001)]
    axes = {f"train.{name}": rates for name in ("learning_rate", "weight_decay", "beta1", "beta2")}
    with pytest.raises(GridError, match=r"matrix: there are at least 1,000,000,000,000 arms.*at most 100,000"):
        plan_grid(matrix=axes)
    with pytest.raises(GridError, match=r"101 axes \(legal: at most 100\)"):
        plan_grid(matrix={f"train.axis{index}": [1] for index in range(101)})
    with pytest.raises(GridError, match=r"seeds: 200 arms with 10,000 seeds are 2,000,000 runs \(legal"):
        plan_grid(matrix={"train.learning_rate": rates[:200]}, seeds=10_000)
