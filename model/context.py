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
