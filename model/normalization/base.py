"""The contract of normalizations: all by which one differs from another, so that no other file asks which it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ..declared import Declared
from ..numerics import rms
from ..position.base import Rotate, Tables
from ..variant import Variant

if TYPE_CHECKING:
    from ..config import ModelConfig

Site = Literal["attention", "mlp"]
SOURCE_EPS = 1e-6  # as RMSNorm's


class Residual(Declared, ABC):
    """One sub-layer's connection to the residual stream: y = f(read(h)); h <- write(h, y)."""

    @abstractmethod
    def read(self, h_btd: Tensor) -> Tensor: ...

    @abstractmethod
    def write(self, h_btd: Tensor, y_btd: Tensor) -> Tensor: ...

    def hand_on(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        """`write`, and the stream as the next sub-layer may read it: the same, perhaps in the type of its products."""
        h_btd = self.write(h_btd, y_btd)
        return h_btd, h_btd


class QueryKey(Declared):
    """What happens to positioned queries and keys before their product, and the logit scale; here 1 / sqrt(k)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q_bthk: Tensor, k_bshk: Tensor) -> tuple[Tensor, Tensor]:
        return q_bthk, k_bshk

    def rotate(self, q_bthk: Tensor, k_bshk: Tensor, rotate: Rotate, tables: Tables) -> tuple[Tensor, Tensor]:
        """`forward` of rotated queries and keys, for which a normalization may have one kernel."""
        placed: tuple[Tensor, Tensor] = self(rotate(q_bthk, tables), rotate(k_bshk, tables))
        return placed


class HiddenScale(Declared):
    """By what an MLP's hidden features (..., n) are multiplied before the activation: (n,), (1,), () or nothing."""

    def forward(self) -> Tensor | None:
        return None


class Final(Declared, ABC):
    """What stands between the last block, the head's matrix and the logits."""

    @abstractmethod
    def read(self, h_btd: Tensor) -> Tensor: ...

    def scale(self, logits_btv: Tensor) -> Tensor:
        """By a factor an entry of the last dimension v, so that the rows of the head's matrix can be scaled instead."""
        return logits_btv


def keep_stream(h_btd: Tensor) -> Tensor:
    """A stream without a constraint stays as it is."""
    return h_btd


def scale_source(h_btd: Tensor) -> Tensor:
    """The embedding as the embedding shortcut mixes it in: at RMS 1, without a gain."""
    return rms(h_btd, SOURCE_EPS)


class Normalization(Variant, ABC):
    """Where the stream is normalised, and every scale, constraint and training default that goes with it."""

    # facts that other components ask for
    @property
    def owns_query_key_norm(self) -> bool:
        """Whether norms of queries and keys are this normalization's affair, so that attentions must not add theirs."""
        return False

    @property
    def has_unit_stream(self) -> bool:
        """Whether the residual stream consists of unit vectors."""
        return False

    @property
    def has_unit_weights(self) -> bool:
        """Whether hidden weights are unit vectors along d_model."""
        return False

    @property
    def has_unit_weights_in_forward(self) -> bool:
        """Whether the forward pass itself normalises weights, with the gradient through it."""
        return False

    @property
    def has_unit_weights_after_step(self) -> bool:
        """Whether weights are projected to unit vectors once before training and after each optimizer step."""
        return False

    @property
    def has_scale_free_writes(self) -> bool:
        """Whether multiplying a sub-layer's output by a positive constant changes nothing."""
        return False

    def base_std(self, d_model: int) -> float:
        """The standard deviation of initial weights."""
        return 0.02

    def recipe(self) -> dict[str, float]:
        """Training defaults that belong to this normalization."""
        return {"weight_decay": 0.1, "warmup_fraction": 0.1}

    # what it builds
    @property
    def settle(self) -> Callable[[Tensor], Tensor]:
        """Brings a stream that something else than a residual has changed back to where it is kept."""
        return keep_stream

    @property
    def source(self) -> Callable[[Tensor], Tensor]:
        """The embedding as the embedding shortcut mixes it in."""
        return scale_source

    def build_input(self, config: ModelConfig) -> nn.Module:
        """Applied to the embedding (b, t, d) before the first block."""
        return nn.Identity()

    @abstractmethod
    def build_residual(self, config: ModelConfig, site: Site) -> Residual: ...

    def build_query_key(self, config: ModelConfig, n_heads: int, width: int, scale: float) -> QueryKey:
        """For queries of `n_heads` heads of `width` features, whose logit scale is otherwise `scale`."""
        return QueryKey(scale)

    def build_hidden_scale(self, config: ModelConfig, n_features: int) -> HiddenScale:
        return HiddenScale()

    @abstractmethod
    def build_final(self, config: ModelConfig) -> Final: ...

    # what that costs
    @abstractmethod
    def num_residual_params(self, config: ModelConfig, site: Site) -> int:
        """Parameters that one sub-layer carries because of this normalization, its scales included."""

    @abstractmethod
    def num_model_params(self, config: ModelConfig) -> int:
        """Parameters that the model carries once: before the first block, after the last, on the logits."""
