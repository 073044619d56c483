"""The largest attention logits and hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import LanguageModelEvaluation, explain_short, held_out_windows, refuse
from ablate.metrics import Direction
from ablate_model import GPT
from ablate_model.attention_maps import LayerCall, watch_attention, watch_residual
from ablate_model.residual import Residual

RANKS = (1, 2, 3, 10, 100)
SITES = ("attention_logits", "hidden_states", "normalized")
LOGITS_AT_ONCE = 1 << 24
SHIFT = 16  # of a float32's bits: 2^15 bins for magnitudes, each at most 1/128 of its value wide
INFINITY_BIN = 0x7F80  # all bits of the exponent


class Outliers(LanguageModelEvaluation):
    """The k-th largest magnitudes, and the median magnitude, in one pass over held-out text.

    `attention_logits` are those of every map, as the softmax gets them, at keys that a query sees. They are computed
    again, because fused kernels do not return them. `hidden_states` are the residual stream after every sub-layer, and
    `normalized` is what every sub-layer and the head read. Memory does not grow with the number of tokens: the median
    is that of a histogram, exact to 1 %. The paper looks at 400,000 tokens.
    """

    name: ClassVar[str] = "outliers"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "top_1": "lower",  # the others are too close to it for a test of their own
        **dict.fromkeys((f"top_{rank}" for rank in RANKS[1:]), None),
        "median": None,
    }
    source: ClassVar[str] = "Differential Transformer, arXiv 2410.05258, table 5"
    needs = frozenset({"corpus"})

    tokens: int = Field(
        32_768, ge=1, description="tokens of the validation split, at most all of it; the paper: 400000"
    )

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        found = {site: Magnitudes() for site in SITES}
        n_tokens = 0
        with ExitStack() as stack:
            stack.enter_context(watch_attention(model, partial(_see_logits, found["attention_logits"])))
            for block in model.stack.blocks:
                for residual in (block.attention_residual, block.mlp_residual):
                    if isinstance(residual, Residual):
                        stack.enter_context(watch_residual(residual, "read", lambda _h, x: found["normalized"].add(x)))
                        stack.enter_context(
                            watch_residual(residual, "write", lambda _h, _y, out: found["hidden_states"].add(out[0]))
                        )
            for inputs_bt, _ in held_out_windows(subject, self.tokens):
                found["normalized"].add(model.final.read(model.encode(inputs_bt)))
                n_tokens += inputs_bt.numel()
        for site, magnitudes in found.items():
            if magnitudes.n_values:
                for metric, value in magnitudes.describe():
                    if value is None:
                        yield from refuse([metric], f"there are only {len(magnitudes.top)} values", site=site)
                    else:
                        yield Row(metric, value, n_tokens, {"site": site})
            elif n_tokens:
                yield from refuse(
                    self.metrics, f"{model.config.attention.name} has none that ablate can see", site=site
                )
            else:
                assert subject.corpus is not None
                yield from refuse(self.metrics, explain_short(subject.corpus, subject.context_length), site=site)


def _see_logits(magnitudes: Magnitudes, layer: LayerCall) -> None:
    """Add the logits of a call, some queries at a time."""
    b, t, n_maps = layer.call.q.shape[:3]
    at_once = max(1, LOGITS_AT_ONCE // (b * n_maps * layer.call.k.shape[1]))
    if at_once >= t:
        magnitudes.add(layer.logits())
        return
    for queries_n in torch.split(torch.arange(t, device=layer.call.q.device), at_once):
        magnitudes.add(layer.select(queries_n).logits())


class Magnitudes:
    """The largest magnitudes of the values seen, and a histogram of all of them. Infinite values do not count."""

    def __init__(self) -> None:
        self.counts = torch.zeros(1 << (31 - SHIFT), dtype=torch.long)
        self.top = torch.zeros(0)

    @property
    def n_values(self) -> int:
        return int(self.counts.sum())

    def add(self, values: Tensor) -> None:
        sizes_n = values.detach().to(torch.float32).abs().flatten()
        counts = torch.bincount(sizes_n.view(torch.int32) >> SHIFT, minlength=len(self.counts)).cpu()
        counts[INFINITY_BIN] = 0
        self.counts += counts
        least = float(self.top.min()) if len(self.top) == RANKS[-1] else -1.0
        large_n = sizes_n[(sizes_n > least) & (sizes_n != torch.inf)]
        top = torch.cat((self.top, large_n.topk(min(RANKS[-1], len(large_n))).values.cpu()))
        self.top = top.topk(min(RANKS[-1], len(top))).values

    def describe(self) -> Iterator[tuple[str, float | None]]:
        for rank in RANKS:
            yield f"top_{rank}", float(self.top[rank - 1]) if rank <= len(self.top) else None
        is_at_least_half = self.counts.cumsum(0) * 2 >= self.n_values
        middle = ((int(is_at_least_half.int().argmax()) << SHIFT) + (1 << (SHIFT - 1)),)
        yield "median", float(torch.tensor(middle, dtype=torch.int32).view(torch.float32))
