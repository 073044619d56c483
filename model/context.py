"""State of one forward pass that every layer receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .cache import LayerCache as LayerCache  # variants in users' files import it from here

Tables = tuple[Tensor, ...]  # what a positional encoding computes once per forward pass for all layers


Padding = int | Tensor | None  # the id of padding tokens, or a mask (b, t) that is True at them


def find_seen(ids_bt: Tensor, padding: Padding) -> Tensor | None:
    """Return which tokens are not padding (b, t), or None if nothing can be."""
    if padding is None:
        return None
    return ~padding if isinstance(padding, Tensor) else ids_bt != padding


@dataclass
class Context:
    """State of one forward pass.

    Position tables, the attention backend, the embedding for shortcuts (b, t, d), and, once the first layer of a path
    has run, its values (b, t, g, v) for value residuals.

    `seen` (b, s) is False for keys that are padding. With `memory` (b, s, d), attention takes keys and values from it
    instead of its own input. `cross` is the context of a decoder's attention to the encoder's output.
    """

    tables: Tables
    backend: str
    source: Tensor | None = None
    first_values: Tensor | None = None
    is_causal: bool = True
    seen: Tensor | None = None
    memory: Tensor | None = None
    cross: Context | None = None

    def mix_values(self, v_bshv: Tensor, is_first: bool, mix: Tensor | float) -> Tensor:
        """v <- (1 - m) v + m v_first, v_first the path's first values before any mixing (arXiv 2410.17897)."""
        if is_first:  # not `first_values is None`: a recomputed layer finds the values of its first run
            self.first_values = v_bshv
            return v_bshv
        assert self.first_values is not None  # config.py: the first layer of a path keeps its attention
        return (v_bshv + mix * (self.first_values - v_bshv)).to(v_bshv.dtype)
