"""Condition numbers of the matrices, the geometry of the embeddings, and nGPT's learned scales."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import NOT_FINITE, LanguageModelEvaluation, refuse
from ablate.metrics import Direction
from ablate_model import GPT
from ablate_model.attention.layer import HeadLayer
from ablate_model.layers import Embedding, LinearLayer
from ablate_model.normalization.learned_scale import LearnedScale

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Conditioning(LanguageModelEvaluation):
    """What the weights look like, without any text.

    - `condition_number`: the largest singular value over the smallest, per layer. For queries, keys, values and the
      output matrix it is the median over heads: each map's rows, or each head's columns.
    - `median_condition_number`: the median over layers.
    - `norm_mean` and `norm_spread` (standard deviation over mean) of the vectors of embedding and head.
    - `effective_rank` of their covariance, (sum of eigenvalues)^2 / sum of squares, and `eigenvalue`: quantiles of its
      spectrum over the median.
    - `scale`: the mean of each learned scale of nGPT.
    """

    name: ClassVar[str] = "conditioning"
    version: ClassVar[int] = 2  # 1 took the lower of two middle heads, and left singular layers out of the median
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "median_condition_number": "lower",
        "condition_number": None,
        "norm_mean": None,
        "norm_spread": None,
        "effective_rank": None,
        "eigenvalue": None,
        "scale": None,
    }
    source: ClassVar[str] = "nGPT, arXiv 2410.01131, appendix A.4, figures 5 to 7 and 11 to 12"

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:  # noqa: ARG002
        found: dict[str, list[Row]] = defaultdict(list)
        for layer, block in enumerate(model.stack.blocks):
            for name, slices in _list_matrices(block):
                found[name] += _describe_matrix(slices, layer, name)
        for name, rows in found.items():
            middle = median(math.inf if row.value is None else row.value for row in rows)
            if math.isfinite(middle):
                yield Row("median_condition_number", middle, len(rows), {"matrix": name})
            else:
                yield from refuse(["median_condition_number"], "half of the layers or more have no number", matrix=name)
            yield from rows
        tables = {"embedding": model.embedding, **({} if model.head is None else {"head": model.head})}
        for name, table in tables.items():
            yield from _describe_table(table, name)
        for name, module in model.named_modules():
            if isinstance(module, LearnedScale):
                yield _describe_scale(name, module)


def _list_matrices(block: Any) -> Iterator[tuple[str, Tensor]]:
    """The matrices of a block by name, as slices (n, out, in) of one head each."""
    attention = block.attention
    if isinstance(attention, HeadLayer):
        for name, width in (("query", attention.qk_width), ("key", attention.qk_width), ("value", attention.v_width)):
            matrix = getattr(attention, name)
            if isinstance(matrix, LinearLayer):
                yield name, torch.unflatten(matrix.read_weight(), 0, (-1, width))
        if isinstance(attention.output, LinearLayer):
            yield "output", torch.unflatten(attention.output.read_weight(), 1, (-1, attention.v_width)).transpose(0, 1)
    if isinstance(block.mlp, nn.Module):
        for name, module in block.mlp.named_modules():
            if isinstance(module, LinearLayer):
                yield f"mlp_{name.replace('.', '_')}", module.read_weight()[None]


def _describe_matrix(slices: Tensor, layer: int, name: str) -> Iterator[Row]:
    within: dict[str, str | int | float] = {"layer": layer, "matrix": name}
    if not slices.isfinite().all():
        yield from refuse(["condition_number"], NOT_FINITE, **within)
        return
    values = torch.linalg.svdvals(slices.double())
    numbers = values[:, 0] / values[:, -1]
    number = float(numbers.quantile(0.5))
    if number < 1 / torch.finfo(torch.float64).eps:
        yield Row("condition_number", number, len(numbers), within)
    else:
        yield from refuse(["condition_number"], "singular: its smallest singular value is 0", **within)


def _describe_table(table: Embedding, name: str) -> Iterator[Row]:
    weight_vd = table.read_weight().double()
    norms, n = weight_vd.norm(dim=1), len(weight_vd)
    yield Row("norm_mean", float(norms.mean()), n, {"matrix": name})
    if n < 2 or not norms.isfinite().all() or not norms.any():
        return  # without a spread; where weights are not finite, the row above says so
    yield Row("norm_spread", float(norms.std() / norms.mean()), n, {"matrix": name})
    eigenvalues = torch.linalg.eigvalsh(torch.cov(weight_vd.T).reshape(weight_vd.shape[1], -1)).clamp_min(0.0)
    yield Row("effective_rank", float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()), n, {"matrix": name})
    middle = float(eigenvalues.quantile(0.5))
    if n <= len(eigenvalues):
        yield from refuse(["eigenvalue"], f"{n} vectors do not span {len(eigenvalues)} dimensions", matrix=name)
        return
    for quantile in QUANTILES:
        within: dict[str, str | int | float] = {"matrix": name, "quantile": quantile}
        yield Row("eigenvalue", float(torch.quantile(eigenvalues, quantile)) / middle, n, within)


def _describe_scale(name: str, module: LearnedScale) -> Row:
    values = module().double()
    parts = name.removeprefix("stack.blocks.").split(".")
    within: dict[str, str | int | float] = (
        {"scale": ".".join(parts[1:])} if name != ".".join(parts) else {"scale": name}
    )
    if name != ".".join(parts):
        within["layer"] = int(parts[0])
    return Row("scale", float(values.mean()), values.numel(), within)
