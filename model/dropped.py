"""Names of sub-layers that a model leaves out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from .errors import ConfigError, quote

Part = Literal["attention", "mlp", "block"]
NO_ATTENTION, NO_MLP = "no layer keeps its attention", "no layer keeps its MLP"  # why knobs of either are idle


def check_dropped(dropped: Iterable[str], n_layers: int) -> tuple[str, ...]:
    """The names once each, in the order of the layers. Raises ConfigError for one that is no sub-layer."""
    names = dict.fromkeys(dropped)
    if not names:  # the usual case, which a million layers must not make slow
        return ()
    legal = dict.fromkeys(f"{part}/{layer}" for layer in range(n_layers) for part in ("attention", "mlp"))
    for name in names:
        if name not in legal:
            raise ConfigError("dropped", f"there is no sub-layer {quote(name)}", legal)
    return tuple(name for name in legal if name in names)
