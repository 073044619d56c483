"""The encoder-decoder: its formulas, its masks, its costs, and decoding with a cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import KNOBS, describe, label, scrambled_model, tiny
from reference_encoder_decoder import logits as naive_logits
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ablate_model
from ablate_model import Cache, ConfigError, EncoderDecoder, EncoderDecoderConfig, ModelConfig, translate
from ablate_model.config import TABLES

SIZES = {
    "d_model": 24,
    "n_layers": 1,
    "n_encoder_layers": 1,
    "n_heads": 4,
    "vocab_size": 11,
    "context_length": 6,
    "source_length": 7,
    "d_ff": 20,
}
FLOAT64 = 1e-10  # sums of a few thousand float64 products, with room for cancellation
FLOAT32_OUT, FLOAT32_GRAD = 1e-5, 1e-4
BFLOAT16 = 0.05  # logits are at most 1 after two layers of 8-bit mantissas
PADDING = 0
ACROSS = [name for name in TABLES["attention"] if TABLES["attention"].resolve(name)().refuse("cross") is None]
BOTH_WAYS = [
    name for name in TABLES["attention"] if TABLES["attention"].resolve(name)().refuse("bidirectional") is None
]


def attentions(use: str) -> Iterator[dict[str, Any]]:
    names = ACROSS if use == "cross" else BOTH_WAYS
    for case in [{"name": name} for name in names] + [c for c in KNOBS["attention"] if c["name"] in names]:
        yield {knob: value for knob, value in case.items() if knob != "window"}


def few() -> Iterator[dict[str, Any]]:
    """Every attention at its sites, every normalization, and the other settings, a few at a time."""
    others = itertools.cycle(OTHERS)
    for number, name in enumerate(TABLES["attention"]):
        sites = [
            ("encoder_attention", BOTH_WAYS),
            ("decoder_attention", list(TABLES["attention"])),
            ("cross_attention", ACROSS),
        ]
        case = {site: name for site, names in sites if name in names}
        yield {**case, "normalization": ("prenorm", "ngpt")[number % 2], **next(others)}
    for name in TABLES["normalization"]:
        yield {"normalization": name, "attention": "differential"}


def settings() -> Iterator[dict[str, Any]]:
    """Every attention at each site, under pre-norm and nGPT; every normalization; every position; other settings."""
    for normalization in ("prenorm", "ngpt"):
        for site, use in (("encoder_attention", "bidirectional"), ("cross_attention", "cross")):
            for case in attentions(use):
                if not ("qk_norm" in case and normalization == "ngpt"):
                    yield {site: case, "normalization": {"name": normalization}}
        for axis in ("position", "mlp", "linear"):
            for name in TABLES[axis]:
                yield {axis: name, "normalization": {"name": normalization}}
        for other in OTHERS:
            yield {**other, "normalization": {"name": normalization}}
    for case in [{"name": name} for name in TABLES["normalization"]] + KNOBS["normalization"]:
        has_lists = any(isinstance(knob, Mapping) and isinstance(knob.get("init"), list) for knob in case.values())
        layers = {"n_layers": 2, "n_encoder_layers": 2} if has_lists else {}
        yield {"normalization": case, "attention": "differential", "bias": case.get("norm") == "layernorm", **layers}


OTHERS: list[dict[str, Any]] = [
    {"tie_embeddings": True, "logit_softcap": 0.5, "position": "sinusoidal"},
    {"share_embeddings": False, "source_vocab_size": 13, "bias": True, "position": "learned"},
    {"value_residual": "learned", "n_layers": 2, "n_encoder_layers": 2, "embedding_shortcut": True},
]
CASES = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=describe(case)) for case in few()]
    + [pytest.param(case, id=f"all-{describe(case)}", marks=pytest.mark.slow) for case in settings()],
)
FEW = [
    {},
    {"attention": "differential", "normalization": "ngpt"},
    {"attention": "linear_ensemble", "position": "learned"},
]
FEW_CASES = pytest.mark.parametrize("case", FEW, ids=str)


def parse(case: Mapping[str, Any]) -> EncoderDecoderConfig:
    return EncoderDecoderConfig.parse({**SIZES, **case})


def build(case: Mapping[str, Any], backend: str = "auto") -> EncoderDecoder:
    return scrambled_model(EncoderDecoder(parse(case), backend=backend))


def ids(length: int, seed: int = 3) -> Tensor:
    """A sequence without padding, and one with padding in front and behind."""
    drawn = torch.randint(1, SIZES["vocab_size"], (2, length), generator=torch.Generator().manual_seed(seed))
    drawn[1, 0] = drawn[1, -1] = PADDING
    return drawn


SOURCE, TARGET = ids(5), ids(4, seed=4)


def gradients(model: EncoderDecoder, out: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = torch.autograd.grad((out * weights).sum() / out.numel(), list(model.parameters()), allow_unused=True)
    return {n: g for (n, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}


@CASES
def test_outputs_and_gradients_equal_the_naive_model(case: Mapping[str, Any]) -> None:
    model = build(case)
    parameters = dict(model.named_parameters())
    assert model.config.num_params() == sum(p.numel() for p in parameters.values())
    expected = naive_logits(model.config, parameters, SOURCE, TARGET, PADDING)
    out = model(SOURCE, TARGET, padding=PADDING)
    torch.testing.assert_close(out, expected, atol=FLOAT64, rtol=FLOAT64)
    wanted, got = gradients(model, expected), gradients(model, out)
    assert wanted.keys() == got.keys() == parameters.keys()
    torch.testing.assert_close(got, wanted, atol=FLOAT64, rtol=FLOAT64)

    rounded = model.float()
    out = rounded(SOURCE, TARGET, padding=PADDING)
    torch.testing.assert_close(out.double(), expected, atol=FLOAT32_OUT, rtol=FLOAT32_OUT)
    got = {name: gradient.double() for name, gradient in gradients(rounded, out).items()}
    torch.testing.assert_close(got, wanted, atol=FLOAT32_GRAD, rtol=FLOAT32_GRAD)
    if case.get("linear") != "bitnet_b158":  # its roundings can jump by a level
        halved = rounded.to(torch.bfloat16)(SOURCE, TARGET, padding=PADDING)
        torch.testing.assert_close(halved.float(), out, atol=BFLOAT16 * max(1.0, out.abs().max().item()), rtol=0)


@FEW_CASES
def test_padding_and_later_targets_have_no_influence(case: Mapping[str, Any]) -> None:
    """By gradient with respect to the token vectors of both sides."""
    model = build({**case, "share_embeddings": False})
    assert model.source_embedding is not None
    source, target = (
        e(i).detach().requires_grad_()
        for e, i in zip((model.source_embedding, model.embedding), (SOURCE, TARGET), strict=True)
    )
    model.source_embedding.forward = lambda _ids: source  # type: ignore[method-assign]
    model.embedding.forward = lambda _ids: target  # type: ignore[method-assign]
    out = model(SOURCE, TARGET, padding=PADDING)
    for b, t in itertools.product(range(2), range(4)):
        if TARGET[b, t] == PADDING:
            continue
        moved = [
            g.abs().sum(-1) > 0
            for g in torch.autograd.grad(out[b, t].square().sum(), (source, target), retain_graph=True)
        ]
        is_source, is_target = torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
        is_source[b] = SOURCE[b] != PADDING
        is_target[b, : t + 1] = TARGET[b, : t + 1] != PADDING
        assert moved[0].equal(is_source)
        assert moved[1].equal(is_target)


@FEW_CASES
def test_a_source_of_padding_only_gave_nan(case: Mapping[str, Any]) -> None:
    model = build(case)
    source = SOURCE.clone()
    source[1] = PADDING
    out = model(source, TARGET, padding=PADDING)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(model, out).values())
    torch.testing.assert_close(out[0], model(SOURCE, TARGET, padding=PADDING)[0])
    context_free = model(source.roll(1, 0), TARGET, padding=PADDING)[1]
    assert (context_free - out[1]).abs().max() > 1e-6


@FEW_CASES
def test_padding_more_on_the_right_changes_nothing(case: Mapping[str, Any]) -> None:
    model = build({**case, "context_length": 9, "source_length": 12})
    longer = [torch.nn.functional.pad(x, (0, n), value=PADDING) for x, n in ((SOURCE, 5), (TARGET, 4))]
    out = model(SOURCE, TARGET, padding=PADDING)
    torch.testing.assert_close(model(*longer, padding=PADDING)[:, :4], out, atol=FLOAT64, rtol=FLOAT64)
    masked = model.decode(TARGET, model.encode(SOURCE, SOURCE == PADDING), padding=PADDING)
    torch.testing.assert_close(model.form_logits(masked), out, atol=FLOAT64, rtol=FLOAT64)


def test_stream_memory_and_weights_of_ngpt_stay_unit() -> None:
    """After steps of an optimizer, also where cross-attention writes, and where it saw no source at all."""
    model = EncoderDecoder(parse({"normalization": "ngpt", "attention": "differential", "n_layers": 2}), seed=1)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=0.01)
    source = SOURCE.clone()
    source[1] = PADDING
    streams: list[Tensor] = []
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        for residual in (block.attention_residual, block.mlp_residual, getattr(block, "cross_residual", None)):
            if residual is not None:
                write = residual.write
                residual.write = lambda h, y, write=write: streams.append(write(h, y)[0]) or write(h, y)
    for _ in range(3):
        streams.clear()
        optimizer.zero_grad()
        model.loss(source, TARGET, TARGET.roll(-1, 1), PADDING).backward()
        optimizer.step()
        model.post_step()
        streams.append(model.encode(source, PADDING).states_bsd)
        assert len(streams) == 2 + 2 * 3 + 1 + 2
        for stream in streams:
            torch.testing.assert_close(stream.norm(dim=-1), torch.ones(stream.shape[:-1]))
        weights = model.unit_axes()
        names = {name for name, p in model.named_parameters() if p in weights}
        assert {f"decoder.blocks.1.cross.{part}.weight" for part in ("query", "key", "value", "output")} < names
        for weight, axis in weights.items():
            norms = weight.norm(dim=axis)
            torch.testing.assert_close(norms, torch.ones_like(norms))


@CASES
def test_cached_decoding_equals_the_full_pass(case: Mapping[str, Any]) -> None:
    model = build(case)
    memory, cache = model.encode(SOURCE, PADDING), Cache(model.config.n_layers)
    pieces = [model.decode(piece, memory, cache, PADDING) for piece in TARGET.split([2, 1, 1], dim=1)]
    assert cache.length == TARGET.shape[1]
    out = model.form_logits(torch.cat(pieces, dim=1))
    torch.testing.assert_close(out, model(SOURCE, TARGET, padding=PADDING), atol=FLOAT64, rtol=FLOAT64)


def test_a_cache_with_a_budget_was_ignored_in_silence() -> None:
    model = build({})
    with pytest.raises(ConfigError, match="standard cannot drop tokens from its cache"):
        model.decode(TARGET, model.encode(SOURCE), Cache(model.config.n_layers, budget=2))


def score(model: EncoderDecoder, source: Tensor, target: Tensor, penalty: float) -> float:
    """log p(target) / length^penalty up to the first token 2."""
    end = target.tolist().index(2) + 1 if 2 in target.tolist() else len(target)
    log_p = model(source[None], target[None, :-1], padding=PADDING)[0]
    log_p[:, PADDING] = -torch.inf
    log_p = log_p.log_softmax(-1)
    return sum(log_p[i, target[i + 1]].item() for i in range(end - 1)) / (end - 1) ** penalty


@torch.no_grad()
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_target(penalty: float) -> None:
    model = build({"vocab_size": 5, "attention": "differential"})
    source = SOURCE[:2] % 5
    knobs = {"start": 1, "stop": 2, "max_new_tokens": 2, "length_penalty": penalty, "padding": PADDING}
    found = translate(model, source, n_beams=5**2, **knobs)
    assert found.equal(translate(model, source, n_beams=5**2, use_cache=False, **knobs))
    for b in range(2):
        every = [torch.tensor([1, *rest]) for rest in itertools.product(range(1, 5), repeat=2)]
        best = max(score(model, source[b], target, penalty) for target in every)
        assert score(
            model, source[b], torch.nn.functional.pad(found[b], (0, 3 - found.shape[1]), value=2), penalty
        ) == pytest.approx(best, abs=FLOAT64)


@torch.no_grad()
def test_greedy_takes_the_most_likely_token_and_stops() -> None:
    model = build({"normalization": "ngpt"})
    knobs = {"start": 1, "stop": 2, "max_new_tokens": 5, "padding": PADDING}
    found = translate(model, SOURCE, **knobs)
    assert found.equal(translate(model, SOURCE, use_cache=False, **knobs))
    for source, row in zip(SOURCE, found, strict=True):
        for n in range(1, len(row)):
            likely = model(source[None], row[None, :n], padding=PADDING)[0, -1, 1:].argmax() + 1
            assert row[n] == (2 if 2 in row[1:n] else likely)
    with pytest.raises(ValueError, match="stop must be a token from 0 to 10, got 11"):
        translate(model, SOURCE, start=1, stop=11, max_new_tokens=5)


@CASES
def test_costs_equal_the_flop_counter(case: Mapping[str, Any]) -> None:
    config = parse(case)
    model = EncoderDecoder(config, backend="math")
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(2, 7, dtype=torch.long), torch.ones(2, 6, dtype=torch.long))
    source, target = config.forward_flops()
    causal = config.attention.flops_per_token(config, 6) - config.attention.flops_per_token(config, 0)
    more = config.n_layers * causal  # the counter sees whole squares, of which the formula counts half
    assert counter.get_total_flops() == 2 * (7 * source + 6 * (target + more))
    assert config.flops_per_source_token() == 3 * source
    assert config.flops_per_token() == pytest.approx(3 * (7 * source + 6 * target) / 6, abs=1)


@CASES
def test_plain_data_and_a_saved_model_give_the_same_again(case: Mapping[str, Any], tmp_path: Path) -> None:
    config = parse(case)
    assert EncoderDecoderConfig.parse(config.to_dict()) == config
    assert EncoderDecoderConfig.parse(config.to_dict()).to_dict() == config.to_dict()
    model = build(case)
    ablate_model.save(model, tmp_path)
    loaded = ablate_model.load(tmp_path)
    assert isinstance(loaded, EncoderDecoder)
    assert loaded(SOURCE, TARGET, padding=PADDING).equal(model(SOURCE, TARGET, padding=PADDING))


def test_one_attention_for_all_or_one_for_each() -> None:
    plain = EncoderDecoder(ModelConfig(**{k: v for k, v in SIZES.items() if k in ModelConfig.model_fields}))
    assert plain.config.n_encoder_layers == 1
    assert {plain.config.encoder_attention.name, plain.config.cross_attention.name} == {"standard"}
    everywhere, crossed = parse({"attention": "differential"}), parse({"cross_attention": "differential"})
    sites = ("encoder_attention", "decoder_attention", "cross_attention")
    assert [getattr(everywhere, site).name for site in sites] == ["differential"] * 3
    assert [getattr(crossed, site).name for site in sites] == ["standard", "standard", "differential"]
    spelled = parse(dict.fromkeys(sites, "differential"))
    assert everywhere == spelled
    assert everywhere.to_dict() == spelled.to_dict()
    assert any("lambda" in name for name in EncoderDecoder(crossed).diagnostics())


REFUSED = [
    ({"attention": "selective"}, "encoder_attention: selective cannot be used in both directions: a vote hides"),
    ({"encoder_attention": "forgetting"}, "encoder_attention: forgetting cannot be used in both directions: a forget"),
    ({"cross_attention": "exclusive"}, "cross_attention: exclusive cannot be used as cross-attention: it removes"),
    ({"cross_attention": {"window": 3}}, "cross_attention: standard cannot be used as cross-attention: a window"),
    ({"encoder_attention": {"qk_head_dim": 5}}, "encoder_attention.qk_head_dim: rope rotates pairs"),
    ({"cross_attention": {"n_kv_heads": 3}}, "cross_attention.n_kv_heads: must divide n_heads = 4"),
    ({"crossattention": "gated"}, "crossattention: unknown key 'crossattention'; did you mean 'cross_attention'"),
    ({"topology": "parallel_gpt", "n_layers": 2}, "topology: encoder and decoder are plain stacks of blocks"),
    ({"dropped": ["mlp/0"]}, "dropped: sub-layers of an encoder-decoder cannot be left out"),
    ({"source_vocab_size": 12}, "source_vocab_size: one embedding for source and target needs one vocabulary"),
    ({"kind": "gpt"}, "kind: expected a model of this kind, got 'gpt'"),
]


@pytest.mark.parametrize(("case", "message"), REFUSED, ids=str)
def test_what_cannot_be_built_is_refused_at_its_place(case: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(case)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("case", list(attentions("cross")), ids=label)
def test_idle_knobs_are_known_at_every_site(case: dict[str, Any]) -> None:
    config = parse({"attention": case})
    usual = config.canonical()
    assert usual == config
    assert not usual.idle_settings()
    assert all(
        notice.split(":")[0].split(".")[0] in (*EncoderDecoderConfig.axes, "value_residual")
        for notice in config.notices()
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore:.*torch.jit:DeprecationWarning")
def test_compiled_and_recomputed_blocks_give_the_same_loss() -> None:
    losses = []
    for change in (lambda _m: None, EncoderDecoder.recompute_blocks):
        model = build({"attention": "differential", "normalization": "ngpt"})
        change(model)
        model.loss(SOURCE, TARGET, TARGET.roll(-1, 1), PADDING).backward()
        losses.append(torch.stack([p.grad.sum() for p in model.parameters()]))
    torch.testing.assert_close(losses[1], losses[0], atol=FLOAT64, rtol=FLOAT64)


def test_label_smoothing_shares_the_target() -> None:
    model = build({})
    labels = TARGET.roll(-1, 1)
    logits = model(SOURCE, TARGET, padding=PADDING).log_softmax(-1)
    terms = [
        -0.9 * logits[b, t, labels[b, t]] - 0.1 * logits[b, t].mean()
        for b, t in itertools.product(range(2), range(4))
        if labels[b, t] != PADDING
    ]
    loss = model.loss(SOURCE, TARGET, labels, PADDING, label_smoothing=0.1)
    torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=FLOAT64, rtol=FLOAT64)


def test_a_bidirectional_gpt_sees_both_sides_and_no_padding() -> None:
    config = ablate_model.BidirectionalConfig(**{k: v for k, v in SIZES.items() if k in ModelConfig.model_fields})
    model = scrambled_model(ablate_model.GPT(config))
    vectors = model.embedding(TARGET).detach().requires_grad_()
    model.embedding.forward = lambda _ids: vectors  # type: ignore[method-assign]
    (gradient,) = torch.autograd.grad(model(TARGET, padding=PADDING)[:, 2].square().sum(), vectors)
    assert (gradient.abs().sum(-1) > 0).equal(TARGET != PADDING)
    assert config != tiny(**{k: v for k, v in SIZES.items() if k in ModelConfig.model_fields})
