"""How similar the attention maps of a layer are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import LanguageModelEvaluation, explain_short, held_out_windows, refuse
from ablate.metrics import Direction
from ablate_model import GPT
from ablate_model.attention.maps import MapLayer
from ablate_model.attention_maps import LayerCall, watch_attention
from ablate_model.kernels.math import form_maps

NUMBERS_AT_ONCE = 1 << 24
ONE_MAP = "a head has one map"


class Maps(LanguageModelEvaluation):
    """The overlap of attention maps on held-out text: 2 sum min(p, q) / (sum p + sum q) over the keys, averaged over
    queries of the second half of the context, pairs of maps, and layers. 1 means equal maps, 0 disjoint ones.

    - `overlap`: all pairs of maps in a layer.
    - `overlap_within_head` and `overlap_between_heads`: pairs of maps of the same value head, and of different ones.
    - `contrast`: within minus between. Below 0, the maps of a head differ more than maps of different heads do.

    Attentions with one map per head have only the first and the third. Maps are softmax maps before they are combined.
    """

    name: ClassVar[str] = "maps"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "overlap": "lower",
        "contrast": "lower",
        "overlap_within_head": None,
        "overlap_between_heads": None,
    }
    source: ClassVar[str] = "our measure of the claim of LinearEnsembleAttention (2025); overlap: Czekanowski (1909)"
    needs = frozenset({"corpus"})

    tokens: int = Field(16_384, ge=1, description="tokens of the validation split to read, at most all of it")
    queries: int = Field(32, ge=1, description="queries per window, evenly spaced over its second half")

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        length = subject.context_length
        queries = torch.linspace(length // 2, length - 1, min(self.queries, length - length // 2)).long()
        overlaps, n_windows = Overlaps(queries), 0
        with watch_attention(model, overlaps.see):
            for inputs_bt, _ in held_out_windows(subject, self.tokens):
                model.encode(inputs_bt)
                n_windows += len(inputs_bt)
        if not n_windows:
            assert subject.corpus is not None
            yield from refuse(self.metrics, explain_short(subject.corpus, length))
        elif not overlaps.within:
            yield from refuse(self.metrics, f"{model.config.attention.name} has no maps that ablate can see")
        else:
            yield from self._describe(overlaps, n_windows * len(queries))

    def _describe(self, overlaps: Overlaps, n: int) -> Iterator[Row]:
        within, between, every = overlaps.means()
        found = {"overlap_within_head": within, "overlap_between_heads": between, "overlap": every}
        for metric, value in found.items():
            if value is None:
                yield from refuse([metric], ONE_MAP if metric == "overlap_within_head" else "there is one head")
            else:
                yield Row(metric, value, n)
        if within is None or between is None:
            yield from refuse(["contrast"], ONE_MAP if within is None else "there is one head")
        else:
            yield Row("contrast", within - between, n, chance=0.0)


class Overlaps:
    """Sums of the overlaps of the pairs of maps in each layer, within heads and between them."""

    def __init__(self, queries_n: Tensor) -> None:
        self.queries_n = queries_n
        self.within: dict[int, list[float]] = defaultdict(lambda: [0.0, 0])  # layer to the sum and number of pairs
        self.between: dict[int, list[float]] = defaultdict(lambda: [0.0, 0])

    def see(self, layer: LayerCall) -> None:
        part = layer.select(self.queries_n.to(layer.x_btd.device))
        maps_bhmns = group_by_head(part, form_maps(part.call, part.logits()))
        n_maps = maps_bhmns.shape[2]
        maps_kbns = maps_bhmns.flatten(1, 2).transpose(0, 1)
        pair_2p = torch.triu_indices(len(maps_kbns), len(maps_kbns), 1, device=maps_kbns.device)
        at_once = max(1, NUMBERS_AT_ONCE // maps_kbns[0].numel())
        for left_p, right_p in zip(*(torch.split(side_p, at_once) for side_p in pair_2p), strict=True):
            p, q = maps_kbns[left_p], maps_kbns[right_p]
            overlap_pbn = 2 * torch.minimum(p, q).sum(-1) / (p + q).sum(-1).clamp_min(torch.finfo(p.dtype).tiny)
            total_p = overlap_pbn.double().sum((1, 2))
            is_same_p = left_p // n_maps == right_p // n_maps
            for sums, chosen_p in ((self.within, is_same_p), (self.between, ~is_same_p)):
                entry = sums[layer.layer]
                entry[0] += float(total_p[chosen_p].sum())
                entry[1] += int(chosen_p.sum()) * overlap_pbn[0].numel()

    def means(self) -> tuple[float | None, float | None, float | None]:
        """The means over layers: within heads, between heads, and over all pairs. None where there are no pairs."""
        layers = [(self.within[layer], self.between[layer]) for layer in self.within]
        every = [[w[0] + b[0], w[1] + b[1]] for w, b in layers]
        return _mean([w for w, _ in layers]), _mean([b for _, b in layers]), _mean(every)


def group_by_head(layer: LayerCall, maps_bhts: Tensor) -> Tensor:
    """Rearrange the maps of a call to (b, n_heads, maps per head, t, s)."""
    module = layer.module
    if isinstance(module, MapLayer):
        return module.group_maps(maps_bhts)
    return torch.unflatten(maps_bhts, 1, (module.n_heads, -1))


def _mean(sums: list[list[float]]) -> float | None:
    known = [total / count for total, count in sums if count]
    return sum(known) / len(known) if known else None
