"""SimbaV2's MLP: a scaled ReLU between unit vectors."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..contracts import NO_MLP, Architecture, Mlp
from ..kernels.unit_vectors import unit
from ..layers import READS
from ..parameters import Spec, SpecModule

FLOOR = 1e-8  # added to the activations, so that their norm is never 0


class SimbaLayer(SpecModule):
    """x -> W_o (ReLU(s * W_h x) + 1e-8), with x first lifted by the shift, if there is one."""

    def __init__(self, config: Architecture, knobs: Simba) -> None:
        super().__init__()
        n_in = knobs.n_inputs(config)
        self.shift = knobs.input_shift
        self.hidden = config.linear.build(config, (config.d_ff, n_in), READS, config.base_std)
        std = config.base_std / config.n_writes**0.5
        self.output = config.linear.build(config, (config.d_model, config.d_ff), READS, std)
        start = (2 * config.d_model) ** -0.5 if knobs.scaler_init is None else knobs.scaler_init
        self.scaler = self.declare("scaler", (config.d_ff,), Spec("vector", mean=start))

    def forward(self, x_btd: Tensor) -> Tensor:
        """(b, t, d) -> (b, t, d)."""
        if self.shift is not None:
            x_btd = unit(F.pad(x_btd, (0, 1), value=self.shift))
        hidden_btf = self.hidden(x_btd, self.scaler)
        written_btd: Tensor = self.output(hidden_btf.relu() + FLOOR)
        return written_btd

    def diagnostics(self) -> dict[str, Tensor]:
        return {"scaler": self.scaler.mean()}


class Simba(Mlp):
    """The MLP of SimbaV2, whose hidden features have a learned scale each."""

    name: ClassVar[str] = "simba"
    summary: ClassVar[str] = "two matrices around a ReLU of learned scales; made for unit vectors (SimbaV2)"
    paper: ClassVar[str] = "Hyperspherical Normalization for Scalable Deep Reinforcement Learning (SimbaV2), 2025"
    equations: ClassVar[str] = (
        "y = W_o (ReLU(s * W_h x) + 1e-8), s from 1 / sqrt(2 d); x <- Norm([x, c]) with a shift c"
    )
    deviations: ClassVar[str] = (
        "weights start like the model's other weights, not orthogonal; the norm of y and the step toward it belong to "
        "the normalization axis: nGPT has both, and elsewhere y is added as it is; inside nGPT, s takes the place of "
        "s_uv, and the rows of both matrices are unit vectors, also those of W_o, whose columns nGPT would take; the "
        "paper shifts only the network's input (ViT's input_shift), so the shift of each MLP's input is off by default"
    )
    neutral: ClassVar[str] = "None: without a gate it cannot equal SwiGLU."

    scaler_init: float | None = Field(
        default=None, gt=0.0, le=1e6, description="initial scale of a hidden feature; null is 1 / sqrt(2 d_model)"
    )
    input_shift: float | None = Field(
        default=None, gt=0.0, le=1e6, description="append this number to the MLP's input and divide by the norm"
    )

    def hidden_features(self, config: Architecture) -> int:
        return 0  # that the normalization could scale

    def n_inputs(self, config: Architecture) -> int:
        return config.d_model + (self.input_shift is not None)

    def idle(self, config: Architecture) -> dict[str, str]:
        return {} if config.count_kept("mlp") else dict.fromkeys(("scaler_init", "input_shift"), NO_MLP)

    def build(self, config: Architecture, layer: int) -> SimbaLayer:
        return SimbaLayer(config, self)

    def num_params(self, config: Architecture) -> int:
        hidden = config.linear_params(self.n_inputs(config), config.d_ff)
        return hidden + config.linear_params(config.d_ff, config.d_model) + config.d_ff

    def flops_per_token(self, config: Architecture, context_length: int) -> int:
        return 2 * config.d_ff * (self.n_inputs(config) + config.d_model)
