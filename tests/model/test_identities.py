"""Exact rewrites, and points where one variant is another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import scrambled, tiny, tokens
from torch import Tensor
from torch.nn import functional as F

from ablate_model import GPT
from ablate_model.attention.differential import lambda_init_at
from ablate_model.attention.selective import SelectiveLayer
from ablate_model.context import Context
from ablate_model.kernels.call import DecayBias
from ablate_model.kernels.functional import attention
from ablate_model.layers import build_reader

FLOAT64 = 1e-12


def heads(n_heads: int, width: int, seed: int, length: int = 6) -> Tensor:
    return torch.randn(2, length, n_heads, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=FLOAT64, rtol=FLOAT64)


def test_three_layouts_of_two_maps_on_shared_values() -> None:
    """One call with values of twice the width; the same padded to equal widths; four heads of equal width."""
    q, k, v, lam = heads(4, 4, 0), heads(4, 4, 1), heads(2, 8, 2), 0.3
    shared = v.repeat_interleave(2, dim=2)
    stacked = attention(q, k, shared)
    one_call = stacked[:, :, 0::2] - lam * stacked[:, :, 1::2]
    padded = attention(F.pad(q, (0, 4)), F.pad(k, (0, 4)), shared, scale=4**-0.5)
    close(padded, stacked)
    quarters = [attention(q[:, :, m::2], k[:, :, m::2], part) for m in (0, 1) for part in v.split(4, dim=-1)]
    close(torch.cat(quarters[:2], -1) - lam * torch.cat(quarters[2:], -1), one_call)


def test_a_sum_of_maps_is_a_sum_of_outputs() -> None:
    q, k, v, w = heads(3, 4, 0), heads(3, 4, 1), heads(1, 8, 2), torch.tensor([0.2, -0.5, 1.1], dtype=torch.float64)
    maps = (
        (torch.einsum("bthk,bshk->bhts", q, k) / 2).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf).softmax(-1)
    )
    combined = torch.einsum("h,bhts,bsv->btv", w, maps, v[:, :, 0])
    close((attention(q, k, v.expand(-1, -1, 3, -1)) * w[:, None]).sum(2), combined)


def test_the_scales_of_queries_and_keys_fold_into_the_queries() -> None:
    q, k, v = F.normalize(heads(4, 8, 0), dim=-1), F.normalize(heads(4, 8, 1), dim=-1), heads(4, 8, 2)
    s = torch.rand(4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    both = attention(s * q, s * k, v, scale=math.sqrt(8))
    close(attention(s.square() * q, k, v, scale=math.sqrt(8)), both)
    close(attention(s.square() * 8 * q, k, v), both)


def test_a_sink_is_a_sigmoid_of_the_log_sum_exp() -> None:
    q, k, v, s = heads(4, 8, 0), heads(4, 8, 1), heads(4, 8, 2), torch.linspace(-1, 1, 4, dtype=torch.float64)
    z = (torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(8)).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    share = (z.logsumexp(-1) - s[:, None]).sigmoid().transpose(1, 2)[..., None]
    close(attention(q, k, v, sink=s), attention(q, k, v) * share)


def test_only_the_keys_part_of_a_decay_matters() -> None:
    q, k, v = heads(4, 8, 0), heads(4, 8, 1), heads(4, 8, 2)
    total = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cumsum(-1).neg()
    whole = attention(q, k, v, bias=DecayBias(total, total))
    close(attention(q, k, v, bias=-total[:, :, None]), whole)


def test_neighbouring_queries_share_a_key_head() -> None:
    """The single call of version 2: 2 n_heads queries, in pairs inside a group."""
    q, k, v = heads(8, 4, 0), heads(2, 4, 1), heads(2, 4, 2)
    out = attention(q, k, v)
    for pair in range(4):
        for member in (0, 1):
            head, group = 2 * pair + member, pair // 2
            one = attention(q[:, :, [head]], k[:, :, [group]], v[:, :, [group]])
            close(out[:, :, [head]], one)


def test_two_maps_weighted_1_and_minus_lambda_are_differential_attention() -> None:
    """lambda = lambda_init, which depends on depth in both, if the lambda vectors are 0."""
    ensemble = tiny(
        d_model=32,
        attention={"name": "linear_ensemble", "num_maps": 2, "map_weight": "free", "map_init": "differential"},
    )
    differential = tiny(d_model=32, attention={"name": "differential", "lambda_std": 0.0, "has_output_scale": False})
    model = GPT(ensemble).double()
    with torch.no_grad():
        for depth, block in enumerate(model.stack.blocks):  # the initial value itself is a float32 number
            block.attention.map_raw.copy_(torch.tensor([1.0, -lambda_init_at(depth)], dtype=torch.float64))
    close(model(tokens()), GPT(differential).double()(tokens()))


def test_the_constant_factor_cancels_inside_ngpt_and_not_outside() -> None:
    def outputs(normalization: str) -> list[Tensor]:
        knobs = [{"name": "differential", "has_output_scale": flag} for flag in (True, False)]
        return [scrambled(tiny(attention=knob, normalization=normalization))(tokens()) for knob in knobs]

    close(*outputs("ngpt"))
    assert not torch.allclose(*outputs("prenorm"))


def test_the_factor_of_u_is_no_freedom_inside_ngpt() -> None:
    model = scrambled(tiny(normalization="ngpt"))
    before = model(tokens())
    with torch.no_grad():
        for block in model.stack.blocks:
            block.mlp.scale.s_uv.raw[: model.config.d_ff].mul_(3.0)
    close(model(tokens()), before)


def selective(**settings: Any) -> tuple[SelectiveLayer, Tensor, Tensor]:
    layer = scrambled(tiny(attention="selective", **settings)).stack.blocks[0].attention
    return layer, heads(1, 6, 0)[:, :, 0], heads(1, 6, 1)[:, :, 0]


def test_selection_spares_the_first_token_the_newest_and_the_one_before() -> None:
    """F_j0 = F_jj = F_j+1,j = 0: a key can first be hidden from the second query after it."""
    layer, q, k = selective()
    votes = layer.vote(q, k)
    hidden = votes.cumsum(1) - votes
    assert (votes >= 0).all()
    assert (hidden[:, :, 0] == 0).all()
    for offset in (0, -1):
        assert (hidden.diagonal(offset, 1, 2) == 0).all()
    assert (hidden.diagonal(-2, 1, 2) > 0).any()
    by_hand = torch.stack([votes[:, :i].sum(1) for i in range(6)], dim=1)
    close(hidden, by_hand)


def test_selection_without_positive_logits_is_standard_attention() -> None:
    layer, _, k = selective()
    assert (layer.vote(-k.abs(), k.abs()) == 0).all()
    chosen, plain = scrambled(tiny(attention="selective")), scrambled(tiny())
    assert not torch.allclose(chosen(tokens()), plain(tokens()))
    for model in (chosen, plain):
        with torch.no_grad():
            for block in model.stack.blocks:  # head 0 without queries has logits 0, and ReLU(0) hides nothing
                block.attention.query.weight[:6] = 0
    close(chosen(tokens()), plain(tokens()))


def test_exclusive_outputs_are_orthogonal_to_the_tokens_own_value() -> None:
    layer = scrambled(tiny(attention="exclusive")).stack.blocks[0].attention
    q, k, v = heads(4, 6, 0), heads(4, 6, 1), heads(4, 6, 2)
    context = Context((), "math")
    out = layer.attend(q, k, v, torch.zeros(2, 6, 24, dtype=torch.float64), context, None)
    close((out * v).sum(-1), torch.zeros(2, 6, 4, dtype=torch.float64))
    assert (out[:, 0] == 0).all()  # nothing is left for a token that sees only itself
    assert (out[:, 1:].norm(dim=-1) > 0.01).all()


@pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
def test_options_at_their_neutral_values_change_nothing(normalization: str) -> None:
    def start(**settings: Any) -> GPT:
        model = GPT(tiny(normalization=normalization, **settings)).double()
        model.post_step()  # unit in float64
        return model

    plain = start()(tokens())
    close(start(embedding_shortcut=True)(tokens()), plain)
    close(start(logit_softcap=1e9)(tokens()), plain)
    learned = start(value_residual="learned")
    close(learned(tokens()), start(value_residual="half")(tokens()))
    with torch.no_grad():
        learned.stack.blocks[1].attention.value_mix.zero_()
    close(learned(tokens()), plain)


def test_a_window_as_wide_as_the_context_hides_nothing() -> None:
    close(scrambled(tiny(attention={"window": 7}))(tokens()), scrambled(tiny())(tokens()))


def test_the_heavier_path_runs_alone_in_eval_mode_only() -> None:
    settings = {"topology": {"name": "parallel_gpt", "inference": "heavier"}}
    model = scrambled(tiny(**settings))
    both = scrambled(tiny(topology="parallel_gpt"))(tokens())
    close(model(tokens()), both)
    with torch.no_grad():
        model.stack.mix.fill_(50.0)  # the second path's share is 2e-22
    close(model.eval()(tokens()), model.train()(tokens()))
    with torch.no_grad():
        model.stack.mix.fill_(-0.1)
    assert not torch.allclose(model.eval()(tokens()), model.train()(tokens()))


def test_dropout_acts_in_training_only() -> None:
    model = GPT(tiny(dropout=0.3))
    assert not torch.equal(model(tokens()), model(tokens()))
    close(model.eval()(tokens()).double(), GPT(tiny()).eval()(tokens()).double())


@pytest.mark.parametrize("linear", ["dense", "bitnet_b158"])
@pytest.mark.parametrize("shape", [(6,), (1,), ()])
def test_gains_on_the_weight_are_gains_on_the_outputs(linear: str, shape: tuple[int, ...]) -> None:
    """The order of multiplication depends on the number of tokens. With 24 features, test 23 and 24 tokens."""
    config = tiny(linear=linear, bias=True, normalization="ngpt")
    layer = build_reader(config, 6).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    gain = torch.rand(shape, generator=generator, dtype=torch.float64)
    x = torch.randn(config.d_model, config.d_model, generator=generator, dtype=torch.float64)
    expected = layer(x) * gain
    close(layer(x, gain), expected)
    close(layer(x[:-1], gain), expected[:-1])
