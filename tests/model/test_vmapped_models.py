"""Stacked models compute what each of them computes by itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import describe, settings, tiny

from ablate_model import GPT, ModelConfig
from ablate_model.stacked import StackedModel, explain_unstackable

ROUNDING_64 = 1e-10
"""Of losses (nats) and gradients, which are below 10: float64 sums in another order, 1e-16 each, through two layers."""

N = 3


def build(config: ModelConfig) -> list[GPT]:
    models = [GPT(config, seed=seed).double() for seed in range(N)]
    for seed, model in enumerate(models):
        model.initialize(seed)
    return models


def draw(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    ids, targets = torch.randint(config.vocab_size, (2, N, 2, config.context_length))
    return ids, targets


WHOLE = {describe(case): tiny(**case) for case in settings()}
CONFIGS = {name: config for name, config in WHOLE.items() if explain_unstackable(config) is None}


def vary_one_axis() -> Iterator[Any]:
    """Every config that can be stacked. Those in which both attention and normalization vary are slow ones."""
    for case in settings():
        is_quick = case.get("attention", {"name": "standard"}) == {"name": "standard"} or (
            case["normalization"] == {"name": "ngpt"}
        )
        if (name := describe(case)) in CONFIGS:
            yield pytest.param(name, marks=[] if is_quick else pytest.mark.slow)


def test_most_variants_can_be_stacked_and_the_others_say_why_not():
    assert len(CONFIGS) > 0.6 * len(WHOLE)
    reasons = {explain_unstackable(WHOLE[name]) for name in WHOLE.keys() - CONFIGS.keys()}
    assert {"attention selective", "attention forgetting", "topology linear_gpt"} <= reasons


@pytest.mark.parametrize("name", list(vary_one_axis()))
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_losses_and_gradients_are_those_of_each_model(name):
    config = CONFIGS[name]
    models = build(config)
    alone = copy.deepcopy(models)
    stacked = StackedModel(models)
    ids, targets = draw(config)
    losses_n = stacked.losses(ids, targets)
    expected_n = torch.stack([model.loss(*own) for model, *own in zip(alone, ids, targets, strict=True)])
    assert (losses_n - expected_n).abs().max() < ROUNDING_64
    losses_n.sum().backward()
    expected_n.sum().backward()
    for name, weight in stacked.named.items():
        for index, model in enumerate(alone):
            own = model.get_parameter(name).grad
            found = torch.zeros_like(weight[index]) if weight.grad is None else weight.grad[index]
            assert (found - (0.0 if own is None else own)).abs().max() < ROUNDING_64, name


@pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
def test_each_model_sees_what_becomes_of_its_weights(normalization):
    config = ModelConfig(
        d_model=16, n_layers=2, n_heads=2, vocab_size=11, context_length=8, normalization=normalization
    )
    models = build(config)
    alone = copy.deepcopy(models)
    stacked = StackedModel(models)
    with torch.no_grad():
        for weight in stacked.parameters():
            weight.mul_(2.0)
        for model in alone:
            for weight in model.parameters():
                weight.mul_(2.0)
            model.post_step()
    stacked.post_step()
    for model, other in zip(models, alone, strict=True):
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)
    groups, others = stacked.parameter_groups(0.1), alone[0].parameter_groups(0.1)
    for group, other in zip(groups, others, strict=True):
        assert [p.shape for p in group["params"]] == [(N, *p.shape) for p in other["params"]]
        assert group["weight_decay"] == other["weight_decay"]


def test_a_model_that_has_no_numbers_leaves_the_others_alone():
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2, vocab_size=11, context_length=8)
    models = build(config)
    with torch.no_grad():
        models[1].head_weight().fill_(torch.nan)
    stacked = StackedModel(models)
    losses_n = stacked.losses(*draw(config))
    losses_n.sum().backward()
    assert losses_n.isfinite().tolist() == [True, False, True]
    for weight in stacked.parameters():
        assert weight.grad is not None and weight.grad[[0, 2]].isfinite().all()
