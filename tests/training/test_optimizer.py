"""Optimizers: which weights decay, their state, and their learning rates."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from ablate.recipes.optimizers import OPTIMIZERS
from ablate.study.schema import TrainConfig
from ablate.training.optimizer import make_optimizer
from ablate_model import GPT


def test_every_optimizer_of_the_grid_is_there():
    assert set(OPTIMIZERS) == set(get_args(TrainConfig.model_fields["optimizer"].annotation))


@pytest.fixture
def model(model_config):
    model = GPT(model_config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


BF16_STEPS = 3e-2
"""Relative error of an update: 15 matrix products in bfloat16 (4e-3 each), which partly even out."""


def orthogonalise(matrix_rc: torch.Tensor) -> torch.Tensor:
    """Five Newton-Schulz steps in float64: X <- a X + (b A + c A A) X, A = X X^T, rows no more than columns."""
    x_rc = matrix_rc / matrix_rc.norm()
    if is_tall := x_rc.shape[0] > x_rc.shape[1]:
        x_rc = x_rc.T
    for _ in range(5):
        gram_rr = x_rc @ x_rc.T
        x_rc = 3.4445 * x_rc + (-4.7750 * gram_rr + 2.0315 * gram_rr @ gram_rr) @ x_rc
    return x_rc.T if is_tall else x_rc


SCALES = {
    "spectral": lambda rows, columns: max(1, rows / columns) ** 0.5,
    "adamw_rms": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
}


@pytest.mark.parametrize("scale", SCALES)
def test_muon_equals_the_formulas_written_out(model_config, make_train_config, scale):
    """Nesterov momentum as the published sum, against torch's running mean, over several steps."""
    train = make_train_config(optimizer="muon", weight_decay=0.5, muon_scale=scale, muon_momentum=0.9)
    model = GPT(model_config).double()
    matrices = {name for name, role in model.parameter_roles().items() if role == "matrix"}
    optimizer = make_optimizer(model, train)
    momentum = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    shapes = set()
    for _ in range(4):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradients = {n: torch.randn(p.shape, generator=generator).double() for n, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].clone()
        optimizer.set_rate(train.learning_rate / 2)
        optimizer.step()
        rate = train.muon_learning_rate / 2
        for name in matrices:
            gradient, matrix = gradients[name], before[name]
            momentum[name] = 0.9 * momentum[name] + gradient
            direction = orthogonalise(gradient + 0.9 * momentum[name])
            expected = -rate * SCALES[scale](*matrix.shape) * direction
            update = dict(model.named_parameters())[name].detach() - matrix * (1 - rate * 0.5)
            assert (update - expected).norm() < BF16_STEPS * expected.norm(), name
            shapes.add(matrix.shape[0] > matrix.shape[1])
    assert shapes == {True, False}  # both tall and wide matrices occurred


def test_muon_leaves_embeddings_head_and_vectors_to_adamw(model, make_train_config):
    muon, adamw = make_optimizer(model, make_train_config(optimizer="muon")).parts
    names = {id(p): name for name, p in model.named_parameters()}
    stepped = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert stepped == {name for name, role in model.parameter_roles().items() if role != "matrix"}
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)


def test_only_matrices_decay(model, make_train_config):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, make_train_config(weight_decay=0.5))
    optimizer.set_rate(0.1)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.dim() >= 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_gradients_are_forgotten(model, make_train_config):
    optimizer = make_optimizer(model, make_train_config())
    optimizer.set_rate(0.1)
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_stepped_once(model, make_train_config, name):
    optimizer = make_optimizer(model, make_train_config(optimizer=name))
    stepped = [id(p) for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters())


def test_a_rate_that_a_graph_reads_stays_the_same_tensor(model_config, make_train_config):
    train = make_train_config()
    saved = make_optimizer(GPT(model_config), train).state_dict()
    optimizer = make_optimizer(GPT(model_config), train)
    groups = optimizer.parts[0].param_groups
    rate = torch.tensor(0.0)
    for group in groups:
        group["lr"] = rate
    optimizer.load_state_dict(saved)
    optimizer.set_rate(0.25)
    assert all(group["lr"] is rate for group in groups)
    assert rate.item() == 0.25
