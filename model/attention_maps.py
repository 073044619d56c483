"""The attention maps of a model, recomputed from the calls of its kernels, which do not return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention.layer import HeadLayer
from .gpt import GPT
from .kernels.attention import BACKENDS
from .kernels.call import Call
from .kernels.masks import select_queries
from .kernels.math import form_logits, form_maps
from .kernels.watch import watch_calls
from .residual import Residual


@dataclass(frozen=True)
class LayerCall:
    """A kernel call of attention layer number `layer`, and the input x (b, t, d) of that layer."""

    layer: int
    module: HeadLayer
    x_btd: Tensor
    call: Call

    def select(self, queries_n: Tensor) -> LayerCall:
        """Return the call of some queries only: (n,) for all sequences or (b, n) for each."""
        rows_bn = queries_n.expand(len(self.x_btd), -1)
        which_b1 = torch.arange(len(self.x_btd), device=rows_bn.device)[:, None]
        return LayerCall(self.layer, self.module, self.x_btd[which_b1, rows_bn], select_queries(self.call, queries_n))

    def logits(self) -> Tensor:
        """Compute the logits (b, h, t, s) of all maps, with -inf where a query does not see a key."""
        with torch.autocast(self.call.q.device.type, enabled=False):
            return form_logits(self.call)

    def effective_maps(self) -> Tensor:
        """Compute the map that multiplies the values of each head (b, n_heads, t, s).

        For attentions with several maps per head, this is their weighted sum: A_1 - lambda A_2 for differential ones.
        """
        with torch.autocast(self.call.q.device.type, enabled=False):
            maps_bhts = form_maps(self.call, form_logits(self.call))
            # only layers with several maps per head have this method
            combine: Callable[[Tensor, Tensor], Tensor] | None = getattr(self.module, "combine_maps", None)
            return maps_bhts if combine is None else combine(maps_bhts, self.x_btd)

    def effective_shares(self) -> Tensor:
        """Divide each row of the effective map by the sum of its absolute weights (b, n_heads, t, s).

        A row of the softmax stays as it is. Weighted sums of maps have any scale: where a norm follows, as in nGPT, it
        means nothing, and lambda of differential attention may grow without bound.
        """
        maps_bhts = self.effective_maps()
        return maps_bhts / maps_bhts.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(maps_bhts.dtype).tiny)


@contextmanager
def watch_attention(model: GPT, see: Callable[[LayerCall], None]) -> Iterator[None]:
    """Show `see` every kernel call of every attention layer while the context lasts. The model must be eager.

    Attentions from users' files that do not call ablate's kernels stay unseen.
    """
    current: list[tuple[int, HeadLayer, Tensor]] = []

    def enter(layer: int, module: Any, x_btd: Tensor) -> None:
        current[:] = [(layer, module, x_btd)] if isinstance(module, HeadLayer) else []

    def watch(call: Call, _backend: str) -> None:
        if current:
            see(LayerCall(*current[0], call))

    with ExitStack() as stack:
        for layer, block in enumerate(model.stack.blocks):
            if isinstance(block.attention, nn.Module):
                hook = block.attention.register_forward_pre_hook(
                    lambda module, inputs, layer=layer: enter(layer, module, inputs[0])
                )
                stack.callback(hook.remove)
        stack.enter_context(watch_calls(watch))
        yield


@contextmanager
def watch_residual(residual: Residual, method: str, see: Callable[..., None]) -> Iterator[None]:
    """Call `see(*arguments, result)` at every call of `read` or `write` while the context lasts."""
    original = getattr(residual, method)

    def watched(*arguments: Tensor) -> Any:
        result = original(*arguments)
        see(*arguments, result)
        return result

    residual.__dict__[method] = watched  # shadows the method of this one module
    try:
        yield
    finally:
        del residual.__dict__[method]


@contextmanager
def replace_kernel(model: GPT, compute: Callable[[Call], Tensor]) -> Iterator[None]:
    """Let `compute` answer every kernel call of the model, (b, t, h, v), while the context lasts."""
    name, backend = f"replaced-{id(compute)}", model.backend
    BACKENDS[name], model.backend = compute, name
    try:
        yield
    finally:
        model.backend = backend
        del BACKENDS[name]
