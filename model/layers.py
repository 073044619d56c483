"""The matrices of the model: embedding, head, hidden linear layers, and the MLP made of two of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .contracts import Architecture
from .kernels.unit_vectors import unit
from .numerics import is_fusible
from .parameters import Role, Spec, SpecModule

READS, WRITES = 1, 0  # the dimension of an (out, in) weight that runs along d_model


class StreamMatrix(SpecModule):
    """An (out, in) matrix that reads the residual stream (axis READS) or writes it (axis WRITES)."""

    def __init__(self, config: Architecture, shape: tuple[int, int], role: Role, axis: int, std: float) -> None:
        super().__init__()
        dtype = torch.bfloat16 if role == "matrix" and config.weight_dtype == "bfloat16" else torch.float32
        self.weight = self.declare("weight", shape, Spec(role, std=std, axis=axis), dtype)
        self.axis = axis
        self.normalize = config.normalization.projection or unit
        self.is_unit_in_forward = config.normalization.has_unit_weights_in_forward

    def read_weight(self) -> Tensor:
        """Return the parameter, or its unit vectors with the gradient through them if the normalization asks for it."""
        return self.normalize(self.weight, self.axis).to(self.weight.dtype) if self.is_unit_in_forward else self.weight


class Embedding(StreamMatrix):
    """Vectors (n_rows, d_model), one per token or position."""

    def __init__(self, config: Architecture, n_rows: int, role: Role = "embedding") -> None:
        super().__init__(config, (n_rows, config.d_model), role, READS, config.base_std)

    def forward(self, ids_bt: Tensor) -> Tensor:
        return F.embedding(ids_bt, self.read_weight())


class LinearLayer(StreamMatrix):
    """A hidden map (..., in) -> (..., out), with the bias that the model config asks for."""

    def __init__(self, config: Architecture, shape: tuple[int, int], axis: int, std: float) -> None:
        super().__init__(config, shape, "matrix", axis, std)
        self.bias = self.declare("bias", (shape[0],), Spec("vector")) if config.bias else None

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Compute x W^T + b; a `gain` (out,), (1,) or () multiplies the outputs."""
        return multiply(x, self.read_weight(), self.bias, gain)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, gain: Tensor | None = None) -> Tensor:
    """Compute (x W^T + b) * gain. A weight stored in 16 bits computes in its own type, whatever the stream's type.

    The gain multiplies the smaller one of the outputs and the rows of the weight.
    """
    if gain is not None and x.shape[:-1].numel() < weight.shape[1]:
        return multiply(x, weight, bias) * gain
    if gain is not None:
        weight = (weight * (gain[:, None] if gain.dim() else gain)).to(weight.dtype)
        bias = None if bias is None else bias * gain
    if weight.dtype.itemsize == 2:
        x, bias = x.to(weight.dtype), None if bias is None else bias.to(weight.dtype)
    return F.linear(x, weight, bias)


def build_reader(config: Architecture, n_out: int) -> nn.Module:
    """Build a hidden layer (..., d_model) -> (..., n_out) that reads the residual stream."""
    return config.linear.build(config, (n_out, config.d_model), READS, config.base_std)


def build_writer(config: Architecture, n_in: int) -> nn.Module:
    """Build a hidden layer (..., n_in) -> (..., d_model) that writes the stream; std is divided by sqrt(n_writes)."""
    std = config.base_std / config.n_writes**0.5
    return config.linear.build(config, (config.d_model, n_in), WRITES, std)


class MlpLayer(nn.Module):
    """d_model -> hidden features -> activation -> d_ff -> d_model."""

    def __init__(self, config: Architecture, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        n_hidden = config.mlp.hidden_features(config)
        self.hidden = build_reader(config, n_hidden)
        self.scale = config.normalization.build_hidden_scale(config, n_hidden)
        self.output = build_writer(config, config.d_ff)
        self.activation = activation  # (..., n_hidden) -> (..., d_ff)

    def forward(self, x_btd: Tensor) -> Tensor:
        hidden = self.hidden(x_btd, None if self.scale is None else self.scale())
        written_btd: Tensor = self.output(self.activation(hidden))
        return written_btd


def swiglu(hidden: Tensor) -> Tensor:
    """Multiply the first half of the features by the SiLU of the second: (..., 2 f) -> (..., f)."""
    if is_fusible(hidden):
        from .kernels.fused import swiglu as fused

        return fused.swiglu(hidden)
    value, gate = hidden.chunk(2, dim=-1)
    return value * F.silu(gate)
