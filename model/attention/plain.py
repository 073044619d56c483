"""A user's plain module as an attention."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..cache import LayerCache
from ..causality import check_tensor
from ..context import Context
from ..contracts import Architecture, Attention, Part, keep_heads
from ..errors import ConfigError
from ..foreign import Foreign
from ..plain import PlainLayer
from ..residual import Rotate


class PlainAttentionLayer(Foreign):
    """Decodes without a cache of its own: it keeps the layer's inputs, and runs the module over all of them again."""

    rotate: Rotate | None = None

    def forward(self, x_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        tables, n_new = context.tables, x_btd.shape[1]
        if cache is not None:
            x_btd = cache.append("inputs", x_btd)
            tables = tuple(
                cache.append(f"table{index}", table.expand(len(x_btd), *table.shape))[0] if table.dim() else table
                for index, table in enumerate(tables)
            )
        if self.rotate is None:
            y_btd = check_tensor(self.module(x_btd))
        else:
            turn = self.rotate
            y_btd = check_tensor(self.module(x_btd, rotate=lambda heads_bthk: turn(heads_bthk, tables)))
        return y_btd[:, -n_new:]


def takes_rotate(target: type[nn.Module]) -> bool:
    """Whether the module's forward asks for the positional encoding of the model."""
    return "rotate" in inspect.signature(target.forward).parameters


class PlainAttention(PlainLayer, Attention):
    """A module x (b, t, d) -> (b, t, d) that mixes tokens."""

    part: ClassVar[Part] = "attention"

    def default_qk_width(self, config: Architecture) -> int:
        return config.head_dim

    def qk_width(self, config: Architecture) -> int:
        return config.head_dim

    def query_features(self, config: Architecture) -> int:
        return 0  # none that a normalization could scale

    def build(self, config: Architecture, layer: int) -> nn.Module:
        built = self.build_foreign(PlainAttentionLayer, config, layer)
        assert isinstance(built, PlainAttentionLayer)
        if takes_rotate(self.target):
            built.rotate = config.position.rotate
        return built

    def call(self, module: nn.Module, x_btd: Tensor) -> Any:
        return module(x_btd, rotate=_stand_still) if takes_rotate(self.target) else module(x_btd)

    def check(self, config: Architecture) -> None:
        super().check(config)
        if config.value_residual != "none":
            raise ConfigError("value_residual", f"{self.name} does not share its values", ["none"])

    def notices(self, config: Architecture) -> tuple[str, ...]:
        found = super().notices(config)
        has_rotation = config.count_kept("attention") and config.position.rotate is not keep_heads
        if has_rotation and not takes_rotate(self.target):
            found += (
                f"{self.name} gets no positions from {config.position.name}: ask for `rotate` in its forward, or use "
                "position learned",
            )
        return found


def _stand_still(heads_bthk: Tensor) -> Tensor:
    """Take the place of the positional encoding where only sizes count; float32, as rope's result."""
    return heads_bthk.to(torch.promote_types(heads_bthk.dtype, torch.float32))
