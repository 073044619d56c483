"""The loss of every variant at fixed weights. A change of its mathematics fails here and must raise `version`."""

from __future__ import annotations

import math

import pytest
import torch
from cases import tiny

from ablate_model import GPT
from ablate_model.config import TABLES

FLOAT64 = 1e-11  # other libraries may sum in another order
LINES = [(axis, name) for axis in TABLES for name in TABLES[axis]]
GOLDEN: dict[tuple[str, str, int], float] = {
    ("attention", "standard", 1): 2.6960252270892875,
    ("attention", "differential", 1): 2.596132225135035,
    ("attention", "differential_v2", 1): 2.922980840540156,
    ("attention", "linear_ensemble", 1): 2.743550681618728,
    ("attention", "selective", 1): 2.658142529935956,
    ("attention", "gated", 1): 2.6864252553607337,
    ("attention", "sink", 1): 2.615928741266943,
    ("attention", "forgetting", 1): 2.270278705208811,
    ("attention", "exclusive", 1): 2.6061907683630543,
    ("normalization", "prenorm", 1): 2.6960252270892875,
    ("normalization", "peri", 1): 2.450102144645114,
    ("normalization", "postnorm", 1): 2.409267890913891,
    ("normalization", "dyt", 1): 4.147179229659356,
    ("normalization", "ngpt", 1): 2.9138117587075167,
    ("mlp", "swiglu", 1): 2.6960252270892875,
    ("mlp", "gelu", 1): 2.704841430757723,
    ("mlp", "relu2", 1): 2.6742649547360626,
    ("mlp", "simba", 1): 2.5959930517820853,
    ("position", "rope", 1): 2.6960252270892875,
    ("position", "learned", 1): 2.9912291932034893,
    ("position", "none", 1): 2.7383092045378876,
    ("position", "sinusoidal", 1): 3.5561862322788866,
    ("position", "ngpt_reference", 1): 2.662107137040637,
    ("linear", "dense", 1): 2.6960252270892875,
    ("linear", "bitnet_b158", 1): 2.737072316008756,
    ("topology", "sequential", 1): 2.6960252270892875,
    ("topology", "linear_gpt", 1): 3.1837483311203982,
    ("topology", "conv_gpt", 1): 3.1837483311203982,
    ("topology", "parallel_gpt", 1): 2.3111232074997305,
}


def compute_loss(axis: str, name: str) -> float:
    """The loss in float64. Weights are sines, not random numbers, scaled like the variant's initialization."""
    model = GPT(tiny(**{axis: name})).double()
    with torch.no_grad():
        for index, (_, parameter, spec) in enumerate(model.walk_parameters()):
            mean = torch.tensor(spec.mean, dtype=torch.float64).expand(parameter.shape)
            waves = torch.sin(1.7 * torch.arange(parameter.numel(), dtype=torch.float64) + index).view(parameter.shape)
            parameter.copy_(mean + 0.3 * waves)
    model.post_step()
    ids = torch.arange(16).view(2, 8).square() % 11
    return model.loss(ids, ids.roll(-1, dims=1)).item()


@pytest.mark.parametrize(("axis", "name"), LINES)
def test_loss_at_fixed_weights(axis: str, name: str) -> None:
    version = TABLES[axis].resolve(name).version
    assert (axis, name, version) in GOLDEN, f"add the loss of version {version}: {compute_loss(axis, name)!r}"
    assert math.isclose(compute_loss(axis, name), GOLDEN[axis, name, version], rel_tol=FLOAT64)


def test_the_table_holds_nothing_that_is_gone() -> None:
    assert {key[:2] for key in GOLDEN} == set(LINES)
