"""Optimizers: what decays, what they keep, and at what rate they step."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from ablate.study.schema import TrainConfig
from ablate.training.optimizer import OPTIMIZERS, make_optimizer
from ablate_model import GPT


def test_every_optimizer_of_the_grid_is_there():
    assert set(OPTIMIZERS) == set(get_args(TrainConfig.model_fields["optimizer"].annotation))


@pytest.fixture
def model(model_config):
    model = GPT(model_config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def test_only_matrices_decay(model, make_train_config):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    make_optimizer(model, make_train_config(weight_decay=0.5)).step(0.1)
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.dim() >= 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_gradients_are_forgotten(model, make_train_config):
    make_optimizer(model, make_train_config()).step(0.1)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_stepped_once(model, make_train_config, name):
    optimizer = make_optimizer(model, make_train_config(optimizer=name))
    stepped = [id(p) for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters())
