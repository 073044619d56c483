"""The parts of the naive model that its attentions and blocks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ablate_model import ModelConfig

Get = Callable[[str], Tensor]


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Norm(x), and 0 if x is 0 up to rounding, as in the fast model."""
    is_zero = x.detach().square().sum(dim, keepdim=True) < 1e-12
    safe = torch.where(is_zero, torch.ones_like(x), x)
    return torch.where(is_zero, torch.zeros_like(x), safe / safe.square().sum(dim, keepdim=True).sqrt())


def sphere(config: ModelConfig, x: Tensor, dim: int = -1, n: int | None = None) -> Tensor:
    """Norm(x) of nGPT: every part on its sphere, or with a norm as near to 1 as allowed."""
    knobs: Any = config.normalization
    n, slack = knobs.num_hyperspheres if n is None else n, knobs.norm_eps
    parts = []
    for part in x.chunk(n, dim):
        size = part.detach().square().sum(dim, keepdim=True).sqrt().clamp(1 - slack, 1 + slack)
        parts.append(unit(part, dim) * size)
    return torch.cat(parts, dim)


def rms_norm(x: Tensor, eps: float, gain: Tensor | float = 1.0) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def linear(config: ModelConfig, get: Get, name: str, x: Tensor, axis: int | None = None) -> Tensor:
    weight = get(f"{name}.weight")
    axis = (0 if name.endswith("output") else 1) if axis is None else axis
    if config.normalization.has_unit_weights_in_forward:
        weight = sphere(config, weight, axis)
    if config.linear.name == "bitnet_b158":
        is_sphere = config.normalization.name == "ngpt"
        magnitude = weight.abs().mean(axis, keepdim=True) if is_sphere else weight.abs().mean()
        weight = pass_through(weight, torch.clamp(torch.round(weight / magnitude), -1, 1) * magnitude)
        x = x if is_sphere else rms_norm(x, 1e-6)
        s = 127 / x.abs().max(-1, keepdim=True).values.clamp_min(1e-5)
        x = pass_through(x, torch.clamp(torch.round(s * x), -128, 127) / s)
    y = x @ weight.T
    return y + get(f"{name}.bias") if config.bias else y


def pass_through(x: Tensor, rounded: Tensor) -> Tensor:
    """The rounded value with the gradient of the exact one."""
    return rounded.detach() + (x - x.detach())


def scale(config: ModelConfig, get: Get, name: str, knob: str) -> Tensor:
    """A learned scale of nGPT: raw * init / scale, or its init."""
    knobs = getattr(config.normalization, knob)
    return (
        torch.tensor([knobs.init], dtype=torch.float64)
        if knobs.mode == "fixed"
        else get(f"{name}.raw") * knobs.init / knobs.scale
    )
