"""Clipping, AdamW and weight normalization in one pass, on a GPU if there is one, else in Triton's interpreter."""

import math
import os

import pytest
import torch
from torch.nn.utils import clip_grads_with_norm_

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed: torch's CPU builds come without it")

from ablate.training import optimizer
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate_model import ModelConfig
from ablate_model.kernels.fused import adamw
from ablate_model.kernels.fused.adamw import MAX_ROW, can_step, step_in_place
from ablate_model.kernels.unit_vectors import NOISE_NORM, project

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = 1e-6  # relative, after a few steps in float32
RATE, BETAS, EPS = 1e-2, (0.9, 0.999), 1e-8


@pytest.mark.parametrize(
    ("dim", "shape"),
    [
        *[(None, shape) for shape in [(5, 7), (3, 700)]],
        *[(0, shape) for shape in [(5, 7), (1, 130), (130, 1), (64, 64), (129, 65), (280, 66), (1057, 3)]],
        *[(1, shape) for shape in [(5, 7), (3, 1500)]],
    ],
    ids=str,
)
@pytest.mark.parametrize(("weight_decay", "max_norm"), [(0.0, 1e6), (0.1, 0.3)])
def test_steps_are_those_of_torch_in_float64(shape, dim, weight_decay, max_norm):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator).to(DEVICE) for _ in range(3)]
    gradients[1][0] = 0.0
    weight = torch.randn(shape, generator=generator).to(DEVICE)
    exact = weight.double().requires_grad_()
    torchs = torch.optim.AdamW([exact], RATE, BETAS, EPS, weight_decay)
    exp_avg, exp_avg_sq = torch.zeros_like(weight), torch.zeros_like(weight)
    for count, gradient in enumerate(gradients):
        norm, before = gradient.norm(), gradient.clone()
        scalars = (
            torch.tensor(float(count), device=DEVICE),
            torch.tensor(RATE, device=DEVICE),
            optimizer.clip_coefficient(norm, max_norm),
        )
        step_in_place(weight, (gradient, exp_avg, exp_avg_sq), scalars, BETAS, EPS, weight_decay, dim)
        assert torch.equal(gradient, before)
        exact.grad = gradient.double()
        clip_grads_with_norm_([exact], max_norm, norm.double())
        torchs.step()
        if dim is not None:
            project(exact.detach(), dim)
    state = torchs.state[exact]
    for one, other in ((weight, exact), (exp_avg, state["exp_avg"]), (exp_avg_sq, state["exp_avg_sq"])):
        assert (one - other).norm() <= ROUNDING * other.norm()


@pytest.mark.parametrize("dim", [0, 1])
def test_vectors_of_noise_become_no_unit_vectors(dim):
    weight = torch.ones(6, 6, device=DEVICE)
    weight.select(1 - dim, 2).fill_(1e-3 * NOISE_NORM)
    nothing, scalars = torch.zeros_like(weight), torch.ones(3, device=DEVICE).unbind()
    step_in_place(weight, (nothing, nothing.clone(), nothing.clone()), scalars, BETAS, EPS, 0.0, dim)
    norms = weight.norm(dim=dim)
    torch.testing.assert_close(norms[2], torch.tensor(1e-3 * 6**0.5, device=DEVICE))
    torch.testing.assert_close(norms[3:], torch.ones(3, device=DEVICE))


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
@pytest.mark.parametrize("norm", [0.0, 0.5, 3.0, math.inf, math.nan])
def test_the_coefficient_is_what_torch_multiplies_by(norm, max_norm):
    one = torch.nn.Parameter(torch.ones(()))
    one.grad = torch.ones(())
    if max_norm:
        clip_grads_with_norm_([one], max_norm, torch.tensor(norm))
    found = optimizer.clip_coefficient(torch.tensor(norm), max_norm)
    torch.testing.assert_close(found, one.grad, rtol=0, atol=0, equal_nan=True)


def test_what_the_kernel_does_not_take_is_told():
    matrix = torch.zeros(2, MAX_ROW + 1)
    assert can_step(matrix, None) and can_step(matrix, 0) and not can_step(matrix, 1)
    assert can_step(matrix[:, :MAX_ROW].contiguous(), 1) and not can_step(matrix[:, :MAX_ROW], 1)
    assert not can_step(matrix.double(), None) and not can_step(matrix[0], None)


@pytest.mark.parametrize("normalization", ["prenorm", {"name": "ngpt", "normalize_weights": "both"}], ids=str)
def test_an_update_in_one_pass_is_the_usual_one(corpus, new_recording, make_train_config, monkeypatch, normalization):
    """Weights, state and gradient norms. One matrix has no gradient in one of the steps."""
    config = ModelConfig(
        d_model=16, n_layers=1, n_heads=2, vocab_size=32, context_length=12, normalization=normalization
    )
    monkeypatch.setattr(optimizer, "is_fusible", lambda _: True)
    taken, seen = [], {}

    def take(weight, *rest):
        taken.append(weight)
        step_in_place(weight, *rest)

    monkeypatch.setattr(adamw, "step_in_place", take)
    for in_one_pass in (True, False):
        train = make_train_config(grad_clip=0.5, cuda_graph=True)
        training = Training(LanguageModelling(config, corpus, 96), train, 0, new_recording(), DEVICE)
        training.is_graphed = in_one_pass
        for group in training.optimizer.parts[0].param_groups:
            group["lr"] = torch.tensor(RATE, device=DEVICE)
        generator = torch.Generator().manual_seed(1)
        norms = []
        for step in range(4):
            for parameter in training.parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(DEVICE)
            if step == 2:
                training.model.embedding.weight.grad = None
            training.update()
            assert all(parameter.grad is None for parameter in training.parameters)
            norms.append(training.grad_norm)
        n_matrices = sum(parameter.dim() == 2 for parameter in training.parameters)
        assert len(taken) == 3 * n_matrices - 1  # torch creates the state in the first step
        (part,) = training.optimizer.parts
        state = [value for parameter in training.parameters for value in part.state[parameter].values()]
        seen[in_one_pass] = [*norms, *training.parameters, *state]
    for one, other in zip(seen[True], seen[False], strict=True):
        torch.testing.assert_close(one, other, rtol=ROUNDING, atol=ROUNDING)
