"""Generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import scrambled, tiny, tokens

from ablate_model import GPT, Sampling, generate


def spread(**settings: Any) -> list[float]:
    """Probabilities of five tokens after filtering; unfiltered they are .5 .25 .125 .0625 .0625."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log()
    return [round(p, 4) for p in Sampling(**settings).probabilities(logits)[0].tolist()]


def test_filters() -> None:
    assert spread() == [0.5, 0.25, 0.125, 0.0625, 0.0625]
    assert spread(top_k=1) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert spread(top_k=2) == [0.6667, 0.3333, 0.0, 0.0, 0.0]
    assert spread(top_k=99) == spread()
    assert spread(top_p=0.5) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert spread(top_p=0.6) == [0.6667, 0.3333, 0.0, 0.0, 0.0]
    assert spread(top_p=1e-9) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert spread(min_p=0.25) == [0.5714, 0.2857, 0.1429, 0.0, 0.0]
    assert spread(min_p=1.0) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert spread(top_k=3, top_p=0.6) == [0.6667, 0.3333, 0.0, 0.0, 0.0]


def test_temperature_divides_logits() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    assert spread(temperature=2.0) == [round(x, 4) for x in (p.sqrt() / p.sqrt().sum()).tolist()]


def test_top_p_keeps_the_order_of_the_vocabulary() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]).log()
    kept = Sampling(top_p=0.7).probabilities(logits) > 0
    assert kept.tolist() == [[False, True, True], [True, False, True]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message} must be"):
        Sampling(**settings)


def test_the_likeliest_tokens_equal_uncached_ones() -> None:
    model = scrambled(tiny(attention="linear_ensemble", normalization="ngpt"))
    ids = prompt = tokens(3)
    for _ in range(5):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(generate(model, prompt, 5, sampling=Sampling(temperature=0)), ids)
    assert torch.equal(generate(model, prompt, 5, sampling=Sampling(temperature=1e-300)), ids)


def test_a_seed_fixes_the_sample() -> None:
    model, prompt = GPT(tiny()), tokens(2)
    samples = [generate(model, prompt, 6, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_sampled_frequencies_are_the_models() -> None:
    """10,000 draws: each frequency within four standard errors of the model's probability."""
    model = scrambled(tiny(), torch.float32)
    prompt = torch.zeros(10_000, 1, dtype=torch.long)
    drawn = generate(model, prompt, 1)[:, 1]
    expected = model(prompt[:1])[0, -1].softmax(-1)
    frequency = torch.bincount(drawn, minlength=11) / 10_000
    assert ((frequency - expected).abs() < 4 * (expected * (1 - expected) / 10_000).sqrt()).all()


def test_a_sequence_ends_at_a_stop_token() -> None:
    model, prompt = GPT(tiny()), tokens(2, 3)
    free = generate(model, prompt, 6)
    stop = free[0, 3].item()
    stopped = generate(model, prompt, 6, stop=[stop])
    for row, whole in zip(stopped, free, strict=True):
        new = whole[2:].tolist()
        end = new.index(stop) if stop in new else len(new)
        assert row[2:].tolist() == (new[: end + 1] + [stop] * 6)[: len(row) - 2]


def test_generation_goes_on_past_a_full_context() -> None:
    model = GPT(tiny(position="learned"))
    assert generate(model, tokens(20), 10).shape == (2, 30)


def test_generation_leaves_the_model_as_it_was() -> None:
    model = GPT(tiny(dropout=0.5))
    assert torch.equal(generate(model, tokens(2), 3), generate(model, tokens(2), 3))
    assert model.training
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate(model, tokens(2)[:, :0], 1)
    assert model.training


def test_learned_positions_end() -> None:
    with pytest.raises(ValueError, match="learned positions end at 8; 9 tokens are too many"):
        GPT(tiny(position="learned"))(tokens(9))
