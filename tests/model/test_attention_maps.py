"""Maps that are recomputed from the kernels' calls: they give the outputs that the kernels gave."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from cases import label, scrambled, tiny, tokens, variants
from torch import Tensor

from ablate_model.attention.layer import HeadLayer
from ablate_model.attention_maps import LayerCall, watch_attention

TOLERANCE = 1e-12  # float64
PLAIN = {"differential": {"has_output_scale": False, "head_norm": "none"}, "linear_ensemble": {"head_norm": "none"}}
CASES = [
    {**case, **PLAIN.get(case["name"], {})}
    for case in variants("attention")
    if case["name"] not in ("gated", "exclusive")
]

MODIFIED = [case for case in CASES if case.keys() & {"window", "n_kv_heads", "logit_softcap"}]  # bias, mask, sink, cap


def run(attention: Mapping[str, Any], backend: str = "auto", **settings: Any) -> tuple[list[LayerCall], list[Tensor]]:
    """The calls of all layers, and the outputs of their heads (b, t, h, v), where no norm or gate follows."""
    model = scrambled(tiny(attention=attention, **settings), backend=backend)
    calls: list[LayerCall] = []
    outputs: list[Tensor] = []
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(watch_attention(model, calls.append))
        for module in model.modules():
            if isinstance(module, HeadLayer):
                hook = module.output.register_forward_pre_hook(lambda _m, x: outputs.append(x[0]))
                stack.callback(hook.remove)
        model(tokens())
    return calls, outputs


@pytest.mark.parametrize("attention", CASES, ids=label)
def test_the_effective_map_times_the_values_is_what_the_layer_made(attention: Mapping[str, Any]) -> None:
    calls, outputs = run(attention, normalization="prenorm" if "qk_norm" in attention else "ngpt")
    assert [call.layer for call in calls] == [0, 1]
    for seen, output in zip(calls, outputs, strict=True):
        n_heads, n_values = seen.module.n_heads, seen.module.n_kv_heads
        maps_bhts = seen.effective_maps()
        assert maps_bhts.shape == (2, n_heads, 7, 7)
        values = seen.call.v[:, :, :: seen.call.v.shape[2] // n_values].repeat_interleave(n_heads // n_values, 2)
        again = torch.einsum("bhts,bshv->bthv", maps_bhts, values).flatten(2)
        assert (again - output).abs().max() < TOLERANCE * max(1, output.abs().max())


@pytest.mark.parametrize("attention", MODIFIED, ids=label)
def test_maps_of_some_queries_are_rows_of_the_whole_map(attention: Mapping[str, Any]) -> None:
    calls, _ = run(attention)
    rows_bn = torch.tensor([[6, 0, 3], [1, 1, 5]])
    for seen in calls:
        whole, logits = seen.effective_maps(), seen.logits()
        for rows in (torch.tensor([2, 6]), rows_bn):
            some = seen.select(rows)
            for b, numbers in enumerate(rows.expand(2, -1)):
                assert (some.effective_maps()[b] - whole[b, :, numbers]).abs().max() < TOLERANCE
                again, expected = some.logits()[b], logits[b, :, numbers]
                assert torch.equal(again.isneginf(), expected.isneginf())
                assert (again - expected).nan_to_num(0.0).abs().max() < TOLERANCE * 1e3


def test_the_map_of_a_differential_head_is_the_first_minus_lambda_times_the_second() -> None:
    (seen, _), _ = run({"name": "differential"})
    maps = seen.logits().softmax(-1)
    by_hand = maps[:, 0::2] - seen.module.lambda_now() * maps[:, 1::2]  # type: ignore[operator]
    assert (seen.effective_maps() - by_hand).abs().max() < TOLERANCE
