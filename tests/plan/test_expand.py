"""From the matrix to arms, through the whole plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import Plan, build_plan
from ablate.study import load_study

PlanGrid = Callable[..., Plan]

LAMBDA = {"attention": ["standard", "differential"], "model.attention.lambda_init": [0.2, 0.8]}
WHERE_DIFFERENTIAL = {"model.attention.lambda_init": "attention == 'differential'"}
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}
HALF_MATRIX = {"attention": ["standard", "differential"], "normalization": ["prenorm", "ngpt"]}


@pytest.fixture
def plan_grid(write_grid: Callable[..., Path], corpus_info: CorpusInfo) -> PlanGrid:
    def plan(**changes: Any) -> Plan:
        return build_plan(load_study(write_grid(**changes)), corpus_info)

    return plan


def names(plan: Plan) -> list[str]:
    return [arm.name for arm in plan.arms]


def refusal(plan_grid: PlanGrid, **changes: Any) -> str:
    with pytest.raises(GridError) as caught:
        plan_grid(**changes)
    return str(caught.value)


def test_full_factorial_in_the_declared_order(plan_grid: PlanGrid) -> None:
    plan = plan_grid(seeds=2)
    assert names(plan) == [
        "attention=standard,normalization=prenorm",
        "attention=standard,normalization=ngpt",
        "attention=differential,normalization=prenorm",
        "attention=differential,normalization=ngpt",
    ]
    assert {arm.baseline for arm in plan.arms} == {"attention=standard,normalization=prenorm"}
    assert len(plan.runs) == 8
    assert [run.seed for run in plan.runs] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("model", "changes", "told"),
    [
        ({"attention": "differential"}, {}, "model.attention: differential is overridden: every arm takes a level"),
        ({"attention": {"name": "gated"}}, {}, "of the axis 'attention', the baseline standard"),
        ({"context_length": 64}, {"matrix": {"context_length": [8, 16]}}, "model.context_length: 64 is overridden"),
        (
            {"context_length": 64},
            {"matrix": {"context_length": [8, 16]}, "compare_within": "context_length"},
            "8 or 16",
        ),
        ({"attention": "standard"}, {}, ""),  # the baseline's
        ({"attention": "differential"}, {"baseline": {"attention": "differential"}}, ""),
        ({"attention": {"name": "differential", "lambda_init": 0.5}}, {}, ""),  # the attention that has the knob
        ({"n_heads": 2}, {"matrix": {"attention": ["standard", {"name": "differential", "n_heads": 1}]}}, ""),
        ({"attention": {"lambda_init": 0.5}}, {"matrix": LAMBDA, "conditions": WHERE_DIFFERENTIAL}, ""),
        (
            {"attention": {"lambda_init": 0.5, "name": "differential"}},
            {"matrix": {"model.attention.lambda_init": [0.2, 0.8]}},
            "model.attention.lambda_init: 0.5 is overridden",
        ),
    ],
)
def test_a_value_of_the_model_that_the_matrix_overrides_is_told(
    plan_grid: PlanGrid, model: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    plan = plan_grid(**{"model": SIZES | model, "baseline": None, "matrix": HALF_MATRIX} | changes)
    notices = [notice for notice in plan.notices if "is overridden" in notice]
    assert (len(notices) == 1 and told in notices[0]) if told else not notices


def test_a_value_of_the_model_is_the_default_of_an_axis_that_set_gave(
    write_grid: Callable[..., Path], corpus_info: CorpusInfo
) -> None:
    grid = write_grid(model=SIZES | {"context_length": 64})
    plan = build_plan(load_study(grid, ["matrix.context_length=[8, 16]"]), corpus_info)
    assert not any("is overridden" in notice for notice in plan.notices)
    plan = build_plan(load_study(grid, ["model.attention=gated"]), corpus_info)
    assert any(notice.startswith("--set: model.attention: gated is overridden") for notice in plan.notices)


def test_a_conditional_axis_exists_only_where_it_may(plan_grid: PlanGrid) -> None:
    axis = "model.attention.lambda_init"
    plan = plan_grid(
        matrix={**HALF_MATRIX, axis: ["depth", 0.5]},
        conditions={axis: "attention == 'differential'"},
    )
    assert names(plan) == [
        "attention=standard,normalization=prenorm",
        "attention=standard,normalization=ngpt",
        f"attention=differential,normalization=prenorm,{axis}=depth",
        f"attention=differential,normalization=prenorm,{axis}=0.5",
        f"attention=differential,normalization=ngpt,{axis}=depth",
        f"attention=differential,normalization=ngpt,{axis}=0.5",
    ]
    assert {arm.baseline for arm in plan.arms} == {"attention=standard,normalization=prenorm"}
    assert plan.arms[3].model.attention.lambda_init == 0.5


def test_a_condition_may_stand_before_the_axis_it_reads(plan_grid: PlanGrid) -> None:
    axis = "model.attention.lambda_init"
    plan = plan_grid(
        matrix={axis: [0.5, 0.8], "attention": ["standard", "differential"]},
        conditions={axis: "attention == 'differential'"},
        baseline={"attention": "standard"},
    )
    assert names(plan) == [
        "attention=standard",
        f"{axis}=0.5,attention=differential",
        f"{axis}=0.8,attention=differential",
    ]


def test_exclusions(plan_grid: PlanGrid) -> None:
    plan = plan_grid(exclude=["attention == 'differential' and normalization == 'ngpt'"])
    assert "attention=differential,normalization=ngpt" not in names(plan)
    assert len(plan.arms) == 3


def test_an_exclusion_that_excludes_nothing_is_told(plan_grid: PlanGrid) -> None:
    plan = plan_grid(exclude=["context_length == 512"])
    assert any("excludes nothing" in notice for notice in plan.notices)


def test_one_at_a_time(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        design="one_at_a_time", matrix={**HALF_MATRIX, "context_length": [16, 32]}, compare_within=["context_length"]
    )
    assert set(names(plan)) == {
        f"{arm},context_length={length}"
        for arm in (
            "attention=standard,normalization=prenorm",
            "attention=differential,normalization=prenorm",
            "attention=standard,normalization=ngpt",
        )
        for length in (16, 32)
    }


def test_leave_one_out(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        design="leave_one_out",
        matrix={**HALF_MATRIX, "model.mlp": ["swiglu", {"name": "swiglu", "d_ff": 96, "label": "wide"}]},
        baseline={"attention": "standard", "normalization": "prenorm", "model.mlp": "swiglu"},
    )
    assert set(names(plan)) == {
        "attention=standard,normalization=prenorm,model.mlp=swiglu",
        "attention=differential,normalization=ngpt,model.mlp=wide",
        "attention=standard,normalization=ngpt,model.mlp=wide",
        "attention=differential,normalization=prenorm,model.mlp=wide",
        "attention=differential,normalization=ngpt,model.mlp=swiglu",
    }


def test_leave_one_out_wants_two_levels(plan_grid: PlanGrid) -> None:
    message = refusal(
        plan_grid, design="leave_one_out", matrix={**HALF_MATRIX, "context_length": [8, 16, 32]}, baseline={}
    )
    assert "exactly two levels" in message
    assert "context_length" in message


def test_compare_within_gives_each_level_its_own_baseline(plan_grid: PlanGrid) -> None:
    plan = plan_grid(matrix={**HALF_MATRIX, "context_length": [16, 32]}, compare_within=["context_length"])
    for arm in plan.arms:
        assert arm.baseline == f"attention=standard,normalization=prenorm,context_length={arm.within['context_length']}"


def test_an_axis_that_the_baseline_leaves_open_is_matched_level_by_level(plan_grid: PlanGrid) -> None:
    plan = plan_grid(baseline={"attention": "standard"})
    for arm in plan.arms:
        assert arm.baseline == f"attention=standard,normalization={arm.axes['normalization']}"


def test_a_level_may_override_more(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        matrix={"attention": ["standard", {"name": "differential", "n_heads": 1, "lambda_init": 0.5}]}, baseline={}
    )
    arm = plan.arms[1]
    assert arm.name == "attention=differential(n_heads=1, lambda_init=0.5)"
    assert (arm.model.n_heads, arm.model.attention.lambda_init) == (1, 0.5)
    assert plan.arms[0].model.n_heads == 2


def test_rules_set_what_they_hold_for(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        rules=[{"when": "normalization == 'ngpt'", "set": {"train.weight_decay": 0.5, "train.warmup_steps": 3}}]
    )
    decay = {arm.axes["normalization"]: (arm.train.weight_decay, arm.train.warmup_steps) for arm in plan.arms}
    assert decay == {"prenorm": (0.1, 1), "ngpt": (0.5, 3)}


def test_the_normalization_brings_its_recipe(plan_grid: PlanGrid) -> None:
    plan = plan_grid()
    recipe = {arm.axes["normalization"]: (arm.train.weight_decay, arm.train.warmup_steps) for arm in plan.arms}
    assert recipe == {"prenorm": (0.1, 1), "ngpt": (0.0, 0)}


def test_equal_configurations_are_one_arm(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        matrix={"attention": ["standard", {"name": "standard", "n_kv_heads": 2, "label": "two"}]}, baseline={}
    )
    assert names(plan) == ["attention=standard"]
    assert any("stands for both" in notice for notice in plan.notices)
    assert len(plan_grid(matrix={"train.weight_decay": [0, -0.0]}, baseline=None).arms) == 1


def test_knobs_of_the_base_go_to_the_variants_that_have_them(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        model={
            "d_model": 16,
            "n_layers": 1,
            "n_heads": 2,
            "context_length": 16,
            "normalization": {"name": "ngpt", "alpha_sign": "free"},
        }
    )
    ngpt = next(arm for arm in plan.arms if arm.axes["normalization"] == "ngpt")
    prenorm = next(arm for arm in plan.arms if arm.axes["normalization"] == "prenorm")
    assert ngpt.model.normalization.alpha_sign == "free"
    assert any("alpha_sign" in notice for notice in prenorm.notices)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrix": {"attention": ["standrad"]}}, ["standrad", "'standard'", "differential", "matrix.attention"]),
        ({"matrix": {"atention": ["standard"]}}, ["atention", "'attention'"]),
        ({"matrix": {"learning_rate": [1]}}, ["'train.learning_rate'"]),
        ({"matrix": {"train.learning_rat": [1]}}, ["'learning_rate'"]),
        ({"matrix": {"model.attention.windw": [1]}}, ["windw", "'window'"]),
        ({"matrix": {"data.tokenizer": ["bytes"]}}, ["same data"]),
        ({"matrix": {"attention": ["standard", "standard"]}}, ["'standard' is in the list twice"]),
        ({"matrix": {"attention": [{"n_heads": 2}]}}, ["name"]),
        ({"matrix": {"attention": [{"name": "standard", "n_heds": 2}]}}, ["n_heds", "'n_heads'"]),
        *(
            ({"matrix": {"attention": [{"name": "standard", "label": label}]}}, ["matrix.attention.0.label", "line of"])
            for label in ("", "a\nb", {"a": 1}, [], float("nan"))
        ),
        ({"rules": [{"when": "True", "set": {"seeds": 3}}]}, ["rules.0.set.seeds", "a setting is a short name"]),
        ({"matrix": {"model.n_heads": [3]}, "baseline": {}}, ["n_heads", "d_model"]),
        ({"matrix": {"model.n_heads": [16]}, "baseline": {}}, ["even"]),
        ({"exclude": ["attention == 'standrad'"]}, ["exclude.0", "'standard'"]),
        ({"exclude": ["attention == "]}, ["exclude.0", "does not parse"]),
        ({"exclude": ["atention == 'standard'"]}, ["exclude.0", "'attention'"]),
        ({"exclude": ["attention < 3"]}, ["exclude.0", "cannot be compared"]),
        ({"exclude": ["True"]}, ["no arm is left"]),
        ({"exclude": ["attention == 'standard' and normalization == 'prenorm'"]}, ["baseline", "is excluded"]),
        ({"conditions": {"num_maps": "attention == 'differential'"}}, ["conditions.num_maps", "not an axis"]),
        (
            {"conditions": {"attention": "normalization == 'ngpt'", "normalization": "attention == 'standard'"}},
            ["cycle"],
        ),
        ({"baseline": {"attention": "sink"}}, ["baseline.attention", "not a level"]),
        ({"baseline": {"attentio": "standard"}}, ["baseline.attentio", "'attention'"]),
        ({"compare_within": ["contextlength"]}, ["compare_within", "contextlength"]),
        ({"rules": [{"when": "attention == 'standard'", "set": {"attention": "differential"}}]}, ["is an axis"]),
        ({"rules": [{"when": "attention == 'standard'", "set": {"train.stps": 3}}]}, ["'steps'"]),
        (
            {"rules": [{"when": "attention == 'standard'", "set": {"train.steps": -3}}]},
            ["rules.0.set.train.steps", "greater"],
        ),
        ({"matrix": {"train.steps": [1e1]}, "baseline": {}}, ["matrix.train.steps.0", "integer", "10.0"]),
        (
            {"matrix": {"attention": [["standard"], "differential"]}, "baseline": {}},
            ["matrix.attention.0", "['standard']"],
        ),
        ({"matrix": {"attention": ["standard"], "model.attention": ["standard"]}, "baseline": {}}, ["the same axis"]),
        (
            {"matrix": {"attention": ["standard", {"name": "differential", "n_heads": 1}], "model.n_heads": [1, 2]}},
            ["matrix.attention.1", "'model.n_heads'"],
        ),
        (
            {
                "matrix": {"attention": ["standard", {"name": "differential", "train.learning_rate": 0.5}]},
                "rules": [{"when": "attention == 'differential'", "set": {"train.learning_rate": 0.1}}],
            },
            ["rules.0.set.train.learning_rate", "attention=differential(train.learning_rate=0.5)"],
        ),
        ({"exclude": ["train.weight_decay > 0.01"]}, ["exclude.0", "set it under `train`"]),
        ({"exclude": ["a" + ".a" * 990]}, ["exclude.0"]),
        ({"model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "attention": 3}}, ["model.attention", "3"]),
        ({"matrix": {"model.n_heads": list(range(1, 400)), "model.n_layers": list(range(1, 400))}}, ["100,000"]),
        ({"matrix": {"train.schedule": ["cosin"]}, "baseline": {}}, ["matrix.train.schedule.0", "'cosine'"]),
        ({"model": {"d_model": 16, "n_layers": 1, "n_heads": 2}}, ["context_length"]),
        (
            {"model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "vocab_size": 100}},
            ["vocab_size", "256"],
        ),
        (
            {"model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "attention": {"windw": 3}}},
            ["windw"],
        ),
        ({"resources": {"gpus": 3}}, ["resources.gpus", "3 processes cannot share a batch of 4"]),
        (
            {"resources": {"processes": 2}, "train": {"steps": 9, "batch_size": 12, "micro_batch_size": 4}},
            ["6 sequences"],
        ),
        ({"resources": {"gpus": 1.5}}, ["resources", "a whole number of GPUs"]),
        ({"resources": {"gpus": 1, "processes": 2}}, ["resources", "2 processes need a GPU each"]),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(
    plan_grid: PlanGrid, changes: dict[str, Any], words: list[str]
) -> None:
    message = refusal(plan_grid, **{"baseline": {}, **changes} if "matrix" in changes else changes)
    assert "grid.yaml" in message
    for word in words:
        assert word in message


def test_a_knob_that_only_some_variants_have_asks_for_a_condition(plan_grid: PlanGrid) -> None:
    message = refusal(plan_grid, matrix={**HALF_MATRIX, "model.normalization.alpha_attn.init": [0.05, 0.1]})
    assert "conditions: {model.normalization.alpha_attn.init: normalization == 'ngpt'}" in message


def test_a_corpus_shorter_than_a_context_is_refused(write_grid: Callable[..., Path]) -> None:
    study = load_study(write_grid(matrix={"context_length": [16, 4096]}, baseline={}))
    with pytest.raises(GridError, match=r"matrix\.context_length\.1: .*4096"):
        build_plan(study, CorpusInfo("c0ffee", 100_000, 1000, 256))


def test_different_arms_of_one_name_are_refused(plan_grid: PlanGrid) -> None:
    message = refusal(
        plan_grid,
        matrix={
            "attention": [
                "differential",
                {"name": "standard", "label": "differential,model.attention.lambda_init=0.5"},
            ],
            "model.attention.lambda_init": [0.5],
        },
        conditions={"model.attention.lambda_init": "attention == 'differential'"},
        baseline=None,
    )
    assert "2 different arms" in message


def test_defaults_can_be_read_in_expressions(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        matrix={"normalization": ["prenorm", "ngpt"]},
        baseline=None,
        exclude=["attention == 'standard' and normalization == 'ngpt' and model.mlp == 'swiglu'"],
        rules=[{"when": "model.attention.n_kv_heads == None", "set": {"train.grad_clip": 0.5}}],
    )
    assert names(plan) == ["normalization=prenorm"]
    assert plan.arms[0].train.grad_clip == 0.5


def test_a_rule_may_set_a_whole_component(plan_grid: PlanGrid) -> None:
    plan = plan_grid(
        matrix={"attention": ["standard", "differential"]},
        baseline=None,
        rules=[
            {"when": "attention == 'differential'", "set": {"model.normalization": {"name": "ngpt", "update": "slerp"}}}
        ],
    )
    assert [arm.model.normalization.name for arm in plan.arms] == ["prenorm", "ngpt"]
    assert plan.arms[1].model.normalization.update == "slerp"


def test_an_axis_that_the_baseline_lacks_is_crossed_one_at_a_time(plan_grid: PlanGrid) -> None:
    axis = "model.attention.lambda_init"
    plan = plan_grid(
        matrix={"attention": ["standard", "differential"], axis: [0.5, 0.8]},
        conditions={axis: "attention == 'differential'"},
        baseline=None,
        design="one_at_a_time",
    )
    assert names(plan) == [
        "attention=standard",
        f"attention=differential,{axis}=0.5",
        f"attention=differential,{axis}=0.8",
    ]


@pytest.mark.parametrize(("n_validation", "told"), [(100_000, ""), (2_000_000, "66.7%"), (10_000, "1.0%")])
def test_a_split_by_files_far_from_its_share_is_told(
    write_grid: Callable[..., Path], corpus_info: CorpusInfo, corpus_file: Path, n_validation: int, told: str
) -> None:
    corpus = replace(corpus_info, n_validation_tokens=n_validation)
    plan = build_plan(load_study(write_grid()), corpus)
    notices = [notice for notice in plan.notices if "data.validation_path" in notice]
    assert (len(notices) == 1 and told in notices[0]) if told else not notices
    data = {"source": "text", "path": str(corpus_file), "validation_path": str(corpus_file)}
    assert not any("whole files" in notice for notice in build_plan(load_study(write_grid(data=data)), corpus).notices)
