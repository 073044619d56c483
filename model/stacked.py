"""Several language models of one config as one: each parameter is one tensor, and each operation runs for all models.

Kernels of a small model are shorter than their launches, so a step of several models takes little longer than that of
one. Tensors carry their shape as a suffix: n model, b batch, t position, d d_model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .blocks import Block
from .config import ModelConfig
from .context import Context, Tables
from .gpt import GPT

BLOCKS = "stack.blocks."


def explain_unstackable(config: ModelConfig) -> str | None:
    """Explain why models of a config cannot be stacked, or return None."""
    if config.kind != ModelConfig.kind:
        return f"a model of the kind {config.kind}"
    if config.dropout:
        return "dropout, which each run draws from its own seed"
    if config.value_residual != "none" or config.embedding_shortcut:
        return "value_residual and embedding_shortcut, which pass on tensors from block to block"
    if any(getattr(config, axis).has_penalty for axis in config.axes):
        return "a penalty on the loss"
    for axis in config.axes:
        variant = getattr(config, axis)
        if variant.code is not None:
            return f"{axis} {variant.name} from your own file"
        if not variant.can_be_stacked:
            return f"{axis} {variant.name}"
    return None


class StackedModel:
    """The `models` of one config, whose parameters become views of the stacked ones (n, ...).

    So each model can still be evaluated, saved and loaded by itself. Raises ValueError for a config that cannot be
    stacked.
    """

    def __init__(self, models: Sequence[GPT]) -> None:
        config, self.models = models[0].config, models
        if reason := explain_unstackable(config):
            raise ValueError(f"models with {reason} cannot be stacked")
        template = copy.deepcopy(models[0])  # its weights too become views; it is never compiled
        named = [dict(model.named_parameters()) for model in models]
        self.named = {name: nn.Parameter(torch.stack([own[name].detach() for own in named])) for name in named[0]}
        for name, stacked in self.named.items():
            template.get_parameter(name).data = stacked.detach()[0]
            for own, view in zip(named, stacked.detach(), strict=True):
                own[name].data = view
        self._blocks: list[tuple[Block, dict[str, Tensor]]] = []
        for layer, block in enumerate(template.stack.blocks):
            assert isinstance(block, Block)
            prefix = f"{BLOCKS}{layer}."
            self._blocks.append((block, {name.removeprefix(prefix): x for name, x in self._within(prefix)}))
        self._outer = {f"model.{name}": x for name, x in self.named.items() if not name.startswith(BLOCKS)}
        self._start, self._end = _Method(template, "embed"), _Method(template, "stream_loss")
        self._run_block, self._run_end = _run_block, _run_end

    def _within(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        return ((name, x) for name, x in self.named.items() if name.startswith(prefix))

    def compile(self) -> None:
        """Compile one block, which all layers share, and the loss."""
        self._run_block = torch.compile(_run_block, dynamic=False)
        self._run_end = torch.compile(_run_end, dynamic=False)

    def losses(self, ids_nbt: Tensor, targets_nbt: Tensor) -> Tensor:
        """Compute the mean cross-entropy (nats) of each model on its own tokens: (n,)."""
        h_nbtd, context = _run_start(self._start, self._outer, ids_nbt)
        for block, own in self._blocks:
            h_nbtd = self._run_block(block, own, h_nbtd, context.tables, context.backend)
        return self._run_end(self._end, self._outer, h_nbtd, targets_nbt)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the stacked parameters, in the order of those of a single model."""
        yield from self.named.values()

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return AdamW's groups, as those of a single model."""
        stacked = dict(zip(self.models[0].parameters(), self.parameters(), strict=True))
        groups = self.models[0].parameter_groups(weight_decay)
        return [{**group, "params": [stacked[one] for one in group["params"]]} for group in groups]

    def post_step(self) -> None:
        """Project the weights of each model back to the unit sphere where nGPT asks for it."""
        for model in self.models:
            model.post_step()


class _Method(nn.Module):
    """A method of a model as a module, because `functional_call` takes no other function."""

    def __init__(self, model: GPT, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *arguments: Tensor) -> Any:
        return getattr(self.model, self.name)(*arguments)


def _run_start(start: _Method, outer: Mapping[str, Tensor], ids_nbt: Tensor) -> tuple[Tensor, Context]:
    kept: list[Context] = []

    def run(own: Mapping[str, Tensor], ids_bt: Tensor) -> tuple[Tensor, Tables]:
        h_btd, context = functional_call(start, dict(own), (ids_bt,))
        kept.append(context)
        return h_btd, context.tables

    h_nbtd, tables = vmap(run, out_dims=(0, None))(outer, ids_nbt)  # type: ignore[arg-type]
    return h_nbtd, replace(kept[0], tables=tables)


def _run_block(block: Block, own: Mapping[str, Tensor], h_nbtd: Tensor, tables: Tables, backend: str) -> Tensor:
    def run(own: Mapping[str, Tensor], h_btd: Tensor) -> Tensor:
        moved_btd: Tensor = functional_call(block, dict(own), (h_btd, Context(tables, backend)))
        return moved_btd

    return vmap(run)(own, h_nbtd)


def _run_end(end: _Method, outer: Mapping[str, Tensor], h_nbtd: Tensor, targets_nbt: Tensor) -> Tensor:
    def run(own: Mapping[str, Tensor], h_btd: Tensor, targets_bt: Tensor) -> Tensor:
        loss: Tensor = functional_call(end, dict(own), (h_btd, targets_bt))
        return loss

    return vmap(run)(outer, h_nbtd, targets_nbt)
