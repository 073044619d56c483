"""The contract of linear layers, and the matrices that touch the residual stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..declared import Declared, Role, Spec
from ..numerics import unit
from ..variant import Variant

if TYPE_CHECKING:
    from ..config import ModelConfig

READS, WRITES = 1, 0  # the dimension of an (out, in) weight that runs along d_model


class StreamMatrix(Declared):
    """An (out, in) matrix that reads the residual stream (axis READS) or writes it (axis WRITES)."""

    def __init__(self, config: ModelConfig, shape: tuple[int, int], role: Role, axis: int, std: float) -> None:
        super().__init__()
        dtype = torch.bfloat16 if role == "matrix" and config.weight_dtype == "bfloat16" else torch.float32
        self.weight = self.declare("weight", shape, Spec(role, std=std, axis=axis), dtype)
        self.axis = axis
        self.is_unit_in_forward = config.normalization.has_unit_weights_in_forward

    def read_weight(self) -> Tensor:
        """The weight that the forward pass uses: the parameter, or its unit vectors with the gradient through them."""
        return unit(self.weight, self.axis).to(self.weight.dtype) if self.is_unit_in_forward else self.weight


class LinearLayer(StreamMatrix):
    """A map (..., in) -> (..., out) with the bias that the model config asks for."""

    def __init__(self, config: ModelConfig, shape: tuple[int, int], axis: int, std: float) -> None:
        super().__init__(config, shape, "matrix", axis, std)
        self.bias = self.declare("bias", (shape[0],), Spec("vector")) if config.bias else None

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """x W^T + b, each output times its `gain` (out,), (1,) or ().

        Gains multiply whichever is smaller: the outputs, or the rows of the weight; the function is the same.
        """
        x, weight, bias = self.prepare(x), self.form_weight(), self.bias
        if gain is None:
            return multiply(x, weight, bias)
        if x.shape[:-1].numel() < weight.shape[1]:
            return multiply(x, weight, bias) * gain
        weight = (weight * (gain[:, None] if gain.dim() else gain)).to(weight.dtype)
        return multiply(x, weight, None if bias is None else bias * gain)

    def prepare(self, x: Tensor) -> Tensor:
        """The input (..., in) as the product takes it."""
        return x

    def form_weight(self) -> Tensor:
        """The (out, in) weight as the product takes it."""
        return self.read_weight()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b. A weight stored in 16 bits computes in its own type, whatever the stream is kept in."""
    if weight.dtype.itemsize == 2:
        x, bias = x.to(weight.dtype), None if bias is None else bias.to(weight.dtype)
    return F.linear(x, weight, bias)


class Linear(Variant, ABC):
    """A kind of linear layer, for every hidden matrix of attention and MLP; embedding and head stay dense."""

    @property
    @abstractmethod
    def has_input_norm(self) -> bool:
        """Whether a layer normalises its own input, so that blocks drop their norms before it."""

    @abstractmethod
    def build(self, config: ModelConfig, shape: tuple[int, int], axis: int, std: float) -> LinearLayer:
        """A layer whose weight has the (out, in) `shape` and starts from N(0, std^2)."""


class Embedding(StreamMatrix):
    """Vectors (n_rows, d_model), one a token or a position."""

    def __init__(self, config: ModelConfig, n_rows: int) -> None:
        super().__init__(config, (n_rows, config.d_model), "embedding", READS, config.base_std)

    def forward(self, ids_bt: Tensor) -> Tensor:
        return F.embedding(ids_bt, self.read_weight())


class Head(StreamMatrix):
    """Output vectors (vocab_size, d_model), when they are not tied to the embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, (config.vocab_size, config.d_model), "head", READS, config.base_std)


class Gate(Declared):
    """A small dense projection (..., d_model) -> (..., out) to per-head controls.

    Exempt from weight normalisation and from quantisation: its output is a control, not a direction in the stream.
    """

    def __init__(self, config: ModelConfig, n_out: int, bias: float | None = None) -> None:
        super().__init__()
        self.weight = self.declare("weight", (n_out, config.d_model), Spec("gate", std=config.base_std))
        self.bias = None if bias is None else self.declare("bias", (n_out,), Spec("gate", mean=bias))

    def forward(self, x_btd: Tensor) -> Tensor:
        return multiply(x_btd, self.weight, self.bias)


def build_reader(config: ModelConfig, n_out: int) -> LinearLayer:
    """A hidden layer (..., d_model) -> (..., n_out) from the residual stream."""
    return config.linear.build(config, (n_out, config.d_model), READS, config.base_std)


def build_writer(config: ModelConfig, n_in: int) -> LinearLayer:
    """A hidden layer (..., n_in) -> (..., d_model) into the residual stream, started at std / sqrt(2 n_layers)."""
    std = config.base_std / (2 * config.n_layers) ** 0.5
    return config.linear.build(config, (config.d_model, n_in), WRITES, std)


def count_linear(config: ModelConfig, n_in: int, n_out: int) -> int:
    """The parameters of one hidden linear layer."""
    return n_in * n_out + (n_out if config.bias else 0)
