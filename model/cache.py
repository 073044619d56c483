"""State of decoding: keys, values and what else the attention layers keep of earlier tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import ConfigError


class LayerCache:
    """Named tensors of one attention layer; those of `append` grow along time, dimension 1.

    A layer that can prune keeps at most `budget` tokens and counts the others in `n_dropped`.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.budget, self.n_dropped = budget, 0

    def append(self, name: str, new_bt: Tensor) -> Tensor:
        """Append the newest time steps under `name` and return all time steps so far."""
        old = self.tensors.get(name)
        self.tensors[name] = new_bt if old is None else torch.cat((old, new_bt), dim=1)
        return self.tensors[name]

    def keep(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return the tensor under `name`, which is computed at first use and then stays."""
        if name not in self.tensors:
            self.tensors[name] = compute()
        return self.tensors[name]


class Cache:
    """The attention layers' state after `length` decoded tokens, and which of these are not padding (b, length).

    With a `budget`, selective attention keeps only that many tokens per layer. Raises ValueError if it is below 2.
    """

    def __init__(self, n_layers: int, budget: int | None = None) -> None:
        if budget is not None and budget < 2:
            raise ValueError(f"a cache needs a budget of at least 2 tokens, the first and the newest, got {budget}")
        self.length, self.budget = 0, budget
        self.layers = [LayerCache(budget) for _ in range(n_layers)]
        self.seen: Tensor | None = None

    def check_budget(self, attention: str, *, prunes: bool) -> None:
        """Raise ConfigError for a budget with an attention that does not prune."""
        if self.budget is not None and not prunes:
            own = f"{attention} cannot drop tokens from its cache; selective without a window can"
            raise ConfigError("attention", own)

    def extend_seen(self, seen_bt: Tensor | None, ids_bt: Tensor) -> Tensor | None:
        """Append which of the newest tokens are not padding, None for all of them, and return the whole mask."""
        if seen_bt is None and self.seen is None:
            return None
        if self.budget is not None:
            raise ValueError("a cache with a budget cannot tell which of the tokens that it keeps are padding")
        everything = torch.ones(len(ids_bt), self.length + ids_bt.shape[1], dtype=torch.bool, device=ids_bt.device)
        old = everything[:, : self.length] if self.seen is None else self.seen
        new = everything[:, self.length :] if seen_bt is None else seen_bt
        self.seen = torch.cat((old, new), dim=1)
        return self.seen

    def count_bytes(self) -> tuple[int, int]:
        """Return the bytes of all keys and values, and what they would be without pruning."""
        kept, whole = 0, 0
        for layer in self.layers:
            for name in ("key", "value"):
                if name in layer.tensors:
                    tensor = layer.tensors[name]
                    kept += tensor.nbytes
                    whole += tensor.nbytes // tensor.shape[1] * (tensor.shape[1] + layer.n_dropped)
        return kept, whole

    def select(self, rows_n: Tensor) -> None:
        """Keep the sequences with these numbers, in this order; a sequence can be kept several times."""
        for layer in self.layers:
            layer.tensors = {name: tensor.index_select(0, rows_n) for name, tensor in layer.tensors.items()}
        self.seen = None if self.seen is None else self.seen.index_select(0, rows_n)
