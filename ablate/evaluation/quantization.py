"""Loss and accuracy after rounding attention logits, activations or weights to a few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import (
    LanguageModelEvaluation,
    explain_short,
    held_out_windows,
    mean_row,
    refuse,
    score_targets,
)
from ablate.metrics import Direction
from ablate_model import GPT
from ablate_model.attention.layer import HeadLayer
from ablate_model.attention_maps import replace_kernel
from ablate_model.foreign import Foreign
from ablate_model.kernels.call import Call
from ablate_model.kernels.masks import select_queries
from ablate_model.kernels.math import attend_math, form_logits
from ablate_model.layers import LinearLayer

Site = Literal["attention_logits", "activations", "weights"]
LOGITS_AT_ONCE = 1 << 24


def round_absmax(x: Tensor, bits: int, largest: Tensor) -> Tensor:
    """Round to 2^bits - 1 levels from -`largest` to `largest`, evenly spaced. Infinite entries stay."""
    step = largest.clamp_min(torch.finfo(x.dtype).tiny) / (2 ** (bits - 1) - 1)
    rounded: Tensor = (x / step).round() * step
    return rounded


class Quantization(LanguageModelEvaluation):
    """Absmax rounding after training, one kind of number at a time.

    - `attention_logits`: the logits of every map, with one scale per sequence and map.
    - `activations`: the inputs of all hidden matrices, with one scale per token.
    - `weights`: all hidden matrices, with one scale per output.

    Embedding and head stay as they are. A user's module whose matrices are not all in linear layers is refused, because
    what stays exact would look robust. `accuracy` is that of the next token. `loss_increase` is the loss minus that of
    the unrounded model on the same windows, which the row with the site `none` has.
    """

    name: ClassVar[str] = "quantization"
    version: ClassVar[int] = 2  # 1 did not round the linear layers of users' modules
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "loss_increase": "lower",
        "loss": None,  # tested as its increase
        "accuracy": None,
    }
    source: ClassVar[str] = "Differential Transformer, arXiv 2410.05258, section 3.7; absmax: arXiv 2208.07339"
    needs = frozenset({"corpus"})

    sites: tuple[Site, ...] = Field(("attention_logits", "activations", "weights"), description="what to round")
    bits: tuple[int, ...] = Field((8, 6, 4, 3), description="bits per number, each at least 2")
    tokens: int = Field(65_536, ge=1, description="tokens of the validation split, at most all of it")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        plain = self._score(model, subject, nullcontext())
        if plain is None:
            assert subject.corpus is not None
            yield from refuse(self.metrics, explain_short(subject.corpus, subject.context_length))
            return
        yield mean_row("loss", plain[0], site="none", bits=32)
        yield mean_row("accuracy", plain[1], site="none", bits=32)
        for site in self.sites:
            for bits in self.bits:
                within: dict[str, str | int | float] = {"site": site, "bits": bits}
                if bits < 2:
                    yield from refuse(self.metrics, f"{bits} bits hold no sign and no size", **within)
                    continue
                if site == "attention_logits" and not any(isinstance(part, HeadLayer) for part in model.modules()):
                    yield from refuse(self.metrics, "this attention calls no kernel of ablate", **within)
                    continue
                if site != "attention_logits" and (matrix := find_other_matrix(model)):
                    yield from refuse(self.metrics, f"{matrix} is not the weight of a linear layer", **within)
                    continue
                rounded = self._score(model, subject, ROUNDINGS[site](model, bits))
                assert rounded is not None
                yield mean_row("loss_increase", rounded[0] - plain[0], **within)
                yield mean_row("loss", rounded[0], **within)
                yield mean_row("accuracy", rounded[1], **within)

    def _score(
        self, model: GPT, subject: Subject, rounding: AbstractContextManager[object]
    ) -> tuple[Tensor, Tensor] | None:
        """The mean loss and the accuracy of every window."""
        with rounding:
            scores = [score_targets(model, *window) for window in held_out_windows(subject, self.tokens)]
        if not scores:
            return None
        losses, hits = (
            torch.cat([part.double().mean(1).cpu() for part in column]) for column in zip(*scores, strict=True)
        )
        return losses, hits


def round_logits(model: GPT, bits: int) -> AbstractContextManager[None]:
    return replace_kernel(model, partial(attend_rounded, bits=bits))


def attend_rounded(call: Call, bits: int) -> Tensor:
    """Attention with rounded logits (b, t, h, v), computed some queries at a time."""
    b, t, n_maps = call.q.shape[:3]
    at_once = max(1, LOGITS_AT_ONCE // (b * n_maps * call.k.shape[1]))
    blocks = torch.split(torch.arange(t, device=call.q.device), at_once)
    calls = [call] if len(blocks) == 1 else [select_queries(call, queries_n) for queries_n in blocks]
    sizes = [_largest(form_logits(part)) for part in calls]
    largest_bh11 = torch.stack(sizes).amax(0)
    outputs = [attend_math(part, partial(round_absmax, bits=bits, largest=largest_bh11)) for part in calls]
    return torch.cat(outputs, dim=1)


def _largest(logits_bhts: Tensor) -> Tensor:
    return logits_bhts.abs().masked_fill(logits_bhts.isinf(), 0.0).amax((2, 3), keepdim=True)


@contextmanager
def round_activations(model: GPT, bits: int) -> Iterator[None]:
    def round_input(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        return round_absmax(x, bits, x.abs().amax(-1, keepdim=True)), *inputs[1:]

    with ExitStack() as stack:
        for module in list_hidden_matrices(model):
            stack.callback(module.register_forward_pre_hook(round_input).remove)
        yield


@contextmanager
def round_weights(model: GPT, bits: int) -> Iterator[None]:
    modules = list(list_hidden_matrices(model))
    kept = [module.weight.detach().clone() for module in modules]
    try:
        for module in modules:
            largest_o1 = module.weight.abs().amax(1, keepdim=True)
            module.weight.copy_(round_absmax(module.weight, bits, largest_o1))
        yield
    finally:
        for module, weight in zip(modules, kept, strict=True):
            module.weight.copy_(weight)


def list_hidden_matrices(model: GPT) -> Iterator[LinearLayer | nn.Linear]:
    """All linear layers of attention and MLP."""
    yield from (module for module in model.stack.blocks.modules() if isinstance(module, LinearLayer | nn.Linear))


def find_other_matrix(model: GPT) -> str:
    """The name of a matrix in a user's module that no linear layer holds; empty if there is none."""
    for part in (module for module in model.stack.blocks.modules() if isinstance(module, Foreign)):
        for name, _ in part.named_parameters():
            owner, _, own = name.rpartition(".")
            if part.spec_of(name).role == "matrix" and not isinstance(part.get_submodule(owner), nn.Linear):
                return own
    return ""


ROUNDINGS: Mapping[Site, Callable[[GPT, int], AbstractContextManager[None]]] = {
    "attention_logits": round_logits,
    "activations": round_activations,
    "weights": round_weights,
}
