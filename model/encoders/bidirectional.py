"""The configuration of models whose tokens see each other in both directions."""

from __future__ import annotations

from typing import ClassVar

from ..config import ModelConfig
from ..contracts import Use
from ..errors import ConfigError


class BidirectionalConfig(ModelConfig):
    """A GPT without the causal mask, as in BERT: `GPT(BidirectionalConfig(...))(ids_bt, padding=0)`.

    Raises ConfigError for an attention that only makes sense with a causal mask.
    """

    kind: ClassVar[str] = "bidirectional"
    use: ClassVar[Use] = "bidirectional"

    @property
    def is_causal(self) -> bool:
        return False

    def finish(self) -> None:
        reason = self.attention.refuse(self.use)
        if reason is not None:
            where = {"bidirectional": "in both directions", "cross": "as cross-attention"}[self.use]
            raise ConfigError("attention", f"{self.attention.name} cannot be used {where}: {reason}")


class CrossConfig(BidirectionalConfig):
    """A decoder as its cross-attention sees it: without positions, and with keys and values of another sequence."""

    use: ClassVar[Use] = "cross"
