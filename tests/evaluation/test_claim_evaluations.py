"""Evaluations that papers' claims need: similar maps, overfitting, the order of pairs, pruned caches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import SURE, KnownModel, RecallModel, build, find, measure, subject, without_text, write_corpus
from torch import Tensor
from torch.nn import functional as F

from ablate.evaluation.language_model import held_out_windows
from ablate.evaluation.maps import Maps
from ablate.evaluation.order import Order
from ablate.evaluation.overfitting import Overfitting
from ablate.evaluation.pruned_cache import PrunedCache
from ablate_model import GPT, Cache, drop
from ablate_model.attention_maps import LayerCall, watch_attention
from ablate_model.kernels.math import form_maps

TEXT = b"Sphinx of black quartz, judge my vow. The wizard Quentin asked. Then Quentin and Alice left for Oslo. " * 60
FLOAT32 = 1e-5


@pytest.fixture
def corpus(tmp_path: Path) -> Any:
    return write_corpus(tmp_path, TEXT, TEXT[7:])


def scramble(model: GPT) -> GPT:
    """Make the maps uneven, because fresh weights attend almost evenly."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in model.stack.blocks:
            for matrix in (block.attention.query, block.attention.key):
                matrix.weight.copy_(torch.randn(matrix.weight.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("attention", ["standard", "differential", "differential_v2", "selective", "sink"])
def test_overlaps_are_those_of_all_pairs_of_maps(attention: str, corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.evaluation.maps.NUMBERS_AT_ONCE", 5000)
    asked = subject(scramble(build(attention=attention)), corpus)
    rows = measure(Maps(tokens=192, queries=5), asked)
    calls: list[LayerCall] = []
    ((inputs, _),) = held_out_windows(asked, 192)
    with torch.no_grad(), watch_attention(asked.model, calls.append):  # type: ignore[arg-type]
        asked.model(inputs)
        maps = [form_maps(call.call, call.logits())[:, :, [32, 39, 47, 55, 63]].numpy() for call in calls]
    has_two = attention.startswith("differential")
    found: dict[bool, list[float]] = {True: [], False: []}
    for layer in maps:
        for i in range(layer.shape[1]):
            for j in range(i):
                p, q = layer[:, i], layer[:, j]
                overlap = 2 * np.minimum(p, q).sum(-1) / (p + q).sum(-1)
                found[has_two and i // 2 == j // 2].append(float(overlap.mean()))
    between, every = np.mean(found[False]), np.mean(found[True] + found[False])
    assert find(rows, "overlap_between_heads").value == pytest.approx(between, abs=FLOAT32)
    assert find(rows, "overlap").value == pytest.approx(every, abs=FLOAT32)
    assert 0.01 < every < 0.9
    if has_two:
        within = float(np.mean(found[True]))
        assert find(rows, "overlap_within_head").value == pytest.approx(within, abs=FLOAT32)
        assert find(rows, "contrast").value == pytest.approx(within - between, abs=FLOAT32)
    else:
        assert find(rows, "contrast").note == "a head has one map"


def test_equal_maps_of_a_head_overlap_completely(corpus: Any) -> None:
    model = scramble(build(attention={"name": "linear_ensemble", "num_maps": 4}))
    with torch.no_grad():
        for block in model.stack.blocks:
            for matrix in (block.attention.query, block.attention.key):
                heads_hmkd = matrix.weight.view(2, 4, -1, 16)
                heads_hmkd.copy_(heads_hmkd[:, :1].expand_as(heads_hmkd))
    rows = measure(Maps(tokens=64), subject(model, corpus))
    within, contrast = find(rows, "overlap_within_head"), find(rows, "contrast")
    assert within.value == pytest.approx(1.0, abs=FLOAT32)
    assert contrast.value is not None and contrast.value > 0.1 and contrast.chance == 0.0
    unseen = measure(Maps(tokens=64), subject(drop(model, ("attention",), 2, [torch.zeros(1, 8).long()]), corpus))
    assert all("no maps that ablate can see" in row.note for row in unseen)


class BigramModel(KnownModel):
    """Has learned by heart that b follows a. It knows nothing else."""

    def encode(self, ids_bt: Tensor, *_: Any) -> Tensor:
        after_a = F.one_hot(torch.tensor(ord("b")), 256).float() * 2 * SURE
        return torch.where((ids_bt == ord("a"))[..., None], after_a, torch.zeros(256))


def test_the_gap_of_a_model_that_knows_its_training_text_by_heart(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, b"ab" * 640, b"ac" * 640)
    rows = measure(Overfitting(tokens=512), subject(BigramModel(), corpus))
    half = math.log(256) / 2  # every second target is uniform in both splits
    assert find(rows, "train_loss").value == pytest.approx(half, abs=FLOAT32)
    assert find(rows, "held_out_loss").value == pytest.approx(half + SURE, abs=FLOAT32)
    assert find(rows, "gap").value == pytest.approx(SURE, abs=FLOAT32)
    short = measure(Overfitting(), subject(BigramModel(), write_corpus(tmp_path, b"ab", b"ac" * 640)))
    assert {row.note for row in short} == {"the training split of 2 tokens is shorter than 64 and one more"}


class LastValue(KnownModel):
    """Always answers with the value of the last pair."""

    def __init__(self, n_pairs: int) -> None:
        super().__init__()
        self.place = 2 * n_pairs - 1

    def encode(self, ids_bt: Tensor, cache: Cache | None = None, padding: object = None) -> Tensor:  # noqa: ARG002
        return (F.one_hot(ids_bt[:, self.place], 256).float() * SURE)[:, None].expand(-1, ids_bt.shape[1], -1)


def test_the_order_of_the_pairs_matters_to_a_model_that_reads_only_the_last_one() -> None:
    evaluation = Order(pairs=(4,), orders=12, samples=50)
    recalls = measure(evaluation, without_text(RecallModel()))
    assert find(recalls, "inconsistency", pairs=4).value == 0
    assert find(recalls, "loss_spread", pairs=4).value == pytest.approx(0, abs=FLOAT32)
    assert find(recalls, "accuracy", pairs=4).value == 1
    last = measure(evaluation, without_text(LastValue(4)))
    assert find(last, "accuracy", pairs=4).value == pytest.approx(1 / 4)
    expected = 1 - (3 / 4) ** 12 - (1 / 4) ** 12  # each order puts the pair that is asked for last with 1 in 4
    assert find(last, "inconsistency", pairs=4).value == pytest.approx(expected, abs=0.04)
    guesses = measure(evaluation, without_text(scramble(build())))
    assert find(guesses, "inconsistency", pairs=4).note == "the accuracy is not clearly above chance"
    assert find(guesses, "accuracy", pairs=4).n == 50
    single = measure(Order(pairs=(1, 99)), without_text(RecallModel()))
    assert find(single, "inconsistency", pairs=1).note == "one pair has one order"
    assert "99 pairs need" in find(single, "inconsistency", pairs=99).note


def test_what_a_pruned_cache_saves_at_an_equal_loss(corpus: Any) -> None:
    asked = subject(scramble(build(attention="selective")), corpus)
    knobs: dict[str, Any] = {"kept": (0.25, 0.125), "tokens": 256}
    rows = measure(PrunedCache(**knobs, tolerance=100.0), asked)
    ((inputs, _),) = held_out_windows(asked, 256)
    with torch.no_grad():
        losses = F.cross_entropy(asked.model(inputs)[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
    assert find(rows, "loss", kept=1.0).value == pytest.approx(float(losses), abs=FLOAT32)
    assert find(rows, "loss_increase", kept=0.125).value != 0
    assert find(rows, "saving").value == 8
    increase = {kept: find(rows, "loss_increase", kept=kept).value or 0.0 for kept in (0.25, 0.125)}
    between = measure(PrunedCache(**knobs, tolerance=max(0.0, sum(increase.values()) / 2)), asked)
    assert find(between, "saving").value == (4 if increase[0.25] < increase[0.125] else 8)
    tiny = measure(PrunedCache(kept=(0.01,), tokens=64), asked)
    assert find(tiny, "saving").note == "no share of the context is large enough to be tried"
    lower = [kept for kept in increase if increase[kept] <= 0]
    strict = measure(PrunedCache(**knobs, tolerance=0.0), asked)
    assert find(strict, "saving").value == (1 / min(lower) if lower else 1)
    assert find(tiny, "loss", kept=0.01).note == "a cache keeps at least 2 tokens, and 0.01 of 64 are 0"
    plain = measure(PrunedCache(tokens=64), subject(build(), corpus))
    assert find(plain, "saving").note.startswith("standard cannot drop tokens")
    assert find(plain, "loss", kept=1.0).n == 1
