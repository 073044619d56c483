"""Evaluations on held-out text and on weights, against explicit computations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import KnownModel, RecallModel, UniformModel, build, find, measure, subject, write_corpus
from torch import Tensor
from torch.nn import functional as F

from ablate.data import validation_batches
from ablate.data.corpora import CorpusSequence, SequenceInfo
from ablate.data.tokenizers import ByteTokenizer, GPT2Tokenizer
from ablate.evaluation.base import Subject
from ablate.evaluation.bits_per_byte import BitsPerByte
from ablate.evaluation.conditioning import Conditioning
from ablate.evaluation.dropping import Dropping
from ablate.evaluation.hallucination import Hallucination, find_names
from ablate.evaluation.in_context import InContext, find_repeats
from ablate.evaluation.length import Length
from ablate.evaluation.outliers import Magnitudes, Outliers
from ablate.evaluation.quantization import Quantization, attend_rounded, round_absmax
from ablate.evaluation.table import EVALUATIONS
from ablate_model import GPT, drop
from ablate_model.attention_maps import LayerCall, watch_attention

TEXT = b"Sphinx of black quartz, judge my vow. The wizard Quentin asked. Then Quentin and Alice left for Oslo. " * 60
TOKENS = 512
FLOAT32 = 1e-5


@pytest.fixture
def corpus(tmp_path: Path) -> Any:
    return write_corpus(tmp_path, TEXT, TEXT[7:])


def windows(asked: Subject) -> tuple[Tensor, Tensor]:
    assert asked.corpus is not None
    ((inputs, targets),) = validation_batches(asked.corpus.validation, TOKENS, 1000, asked.context_length)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def loss_of(model: GPT, asked: Subject) -> float:
    inputs, targets = windows(asked)
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()))


def test_bits_per_byte_is_the_validation_loss_in_other_units(corpus: Any) -> None:
    asked = subject(build(), corpus)
    rows = measure(BitsPerByte(tokens=TOKENS, words=True), asked)
    loss = loss_of(asked.model, asked)  # type: ignore[arg-type]
    assert find(rows, "loss").value == pytest.approx(loss, abs=FLOAT32)
    assert find(rows, "bits_per_byte").value == pytest.approx(loss / math.log(2), abs=FLOAT32)
    _, targets = windows(asked)
    n_words = sum(len(ByteTokenizer().decode(row).split()) for row in targets.numpy())
    assert find(rows, "word_perplexity").value == pytest.approx(math.exp(loss * targets.numel() / n_words), rel=1e-4)
    uniform = measure(BitsPerByte(tokens=TOKENS), subject(UniformModel(), corpus))
    assert find(uniform, "bits_per_byte").value == pytest.approx(8.0)
    (short, *_) = measure(BitsPerByte(), subject(build(), corpus, context_length=10**6))
    assert "is shorter than 1,000,000" in short.note


def test_separators_have_no_bytes_and_pieces_have_theirs() -> None:
    assert ByteTokenizer().count_bytes(np.frombuffer(b"a\0\xc3\xa9", dtype=np.uint8)) == 3
    words = GPT2Tokenizer({**{bytes([byte]): byte for byte in range(256)}, b"the": 256})
    tokens = words.encode("the the<|endoftext|>\N{EURO SIGN}")
    assert words.count_bytes(tokens) == len("the the\N{EURO SIGN}".encode())


def test_repeated_n_grams_are_those_that_the_window_holds_before() -> None:
    tokens = np.random.default_rng(0).integers(0, 3, (4, 40))
    for n in (2, 3):
        found = find_repeats(tokens, n)
        for row, marks in zip(tokens.tolist(), found, strict=True):
            grams = [tuple(row[i - n + 1 : i + 1]) for i in range(n - 1, len(row))]
            expected = [gram in grams[:i] for i, gram in enumerate(grams)]
            assert marks.tolist() == [False] * (n - 1) + expected


def test_in_context_learning_of_a_model_that_recalls_and_of_an_ignorant_one(corpus: Any) -> None:
    evaluation = InContext(tokens=TOKENS, samples=4)
    rows = measure(evaluation, subject(RecallModel(), corpus, context_length=128))
    repeat = find(rows, "repeat_loss").value
    assert repeat is not None and repeat < 1  # the first tokens after the repetition begins have several matches
    hit, other = find(rows, "ar_hit_loss", ngram=5), find(rows, "other_loss", ngram=5)
    assert hit.value is not None and other.value is not None and hit.value < 1 < 10 < other.value
    assert hit.n + other.n == TOKENS
    assert find(rows, "in_context_score").value < 0  # type: ignore[operator]
    assert find(rows, "induction_score").note  # it has no attention
    positions = [row for row in rows if row.metric == "loss"]
    assert [row.within["positions"] for row in positions][:3] == ["0-0", "1-2", "3-6"]
    uniform = measure(evaluation, subject(UniformModel(), corpus))
    assert {round(row.value, 4) for row in uniform if row.metric.endswith("loss") and row.value is not None} == {5.5452}


def test_the_induction_score_is_the_attention_to_the_token_after_the_first_occurrence(corpus: Any) -> None:
    model = build(attention="differential").eval()
    rows = measure(InContext(tokens=64, samples=3), subject(model, corpus))
    calls: list[LayerCall] = []
    with torch.no_grad(), watch_attention(model, calls.append):
        list(InContext(tokens=64, samples=3)._measure_repeats(model, subject(model, corpus)))
        maps = torch.stack([call.effective_shares() for call in calls])  # layer, sequence, head, query, key
    queries = torch.arange(32, 63)
    best = maps[:, :, :, queries, queries - 31].mean((1, 3)).max()
    assert find(rows, "induction_score").value == pytest.approx(float(best), abs=1e-6)


@pytest.mark.parametrize("attention", ["differential", {"name": "forgetting", "logit_softcap": 3.0}], ids=str)
@pytest.mark.parametrize("at_once", [1 << 24, 1000])
def test_outliers_are_those_of_all_logits_and_states(
    attention: Any, at_once: int, corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.evaluation.outliers.LOGITS_AT_ONCE", at_once)
    model = build(attention=attention).eval()
    asked = subject(model, corpus)
    rows = measure(Outliers(tokens=TOKENS), asked)
    calls: list[LayerCall] = []
    with torch.no_grad(), watch_attention(model, calls.append):
        model(windows(asked)[0])
        logits = torch.cat([call.logits().flatten() for call in calls])
    sizes = logits[logits.isfinite()].abs().sort(descending=True).values
    site = {"site": "attention_logits"}
    for rank in (1, 2, 3, 10, 100):
        assert find(rows, f"top_{rank}", **site).value == pytest.approx(float(sizes[rank - 1]), rel=1e-4)
    assert find(rows, "median", **site).value == pytest.approx(float(sizes.median()), rel=0.01)
    assert find(rows, "top_1", **site).n == TOKENS
    assert {row.within["site"] for row in rows} == {"attention_logits", "hidden_states", "normalized"}
    stream: list[Tensor] = []
    for block in model.stack.blocks:
        block.register_forward_hook(lambda _block, _x, y: stream.append(y))
    with torch.no_grad():
        model(windows(asked)[0])
    top = find(rows, "top_1", site="hidden_states").value
    assert top is not None and top >= max(float(h.abs().max()) for h in stream) - FLOAT32


def test_memory_of_outliers_does_not_grow_with_what_they_see() -> None:
    magnitudes, generator = Magnitudes(), torch.Generator().manual_seed(0)
    values = torch.randn(50, 4000, generator=generator)
    for part in values:
        magnitudes.add(torch.cat((part, torch.tensor([-torch.inf]))))
    assert (len(magnitudes.top), len(magnitudes.counts)) == (100, 1 << 15)
    found, sizes = dict(magnitudes.describe()), values.abs().flatten().sort(descending=True).values
    assert magnitudes.n_values == values.numel()
    assert found["top_100"] == float(sizes[99])
    assert found["median"] == pytest.approx(float(sizes.median()), rel=0.01)


def test_absmax_rounding_keeps_the_largest_and_has_2_to_the_bits_minus_1_levels() -> None:
    x = torch.linspace(-2.0, 1.5, 1001)
    rounded = round_absmax(x, 3, x.abs().max())
    assert sorted(set(rounded.tolist())) == pytest.approx([-2 + 2 / 3 * i for i in range(6)], abs=1e-6)
    assert (rounded - x).abs().max() <= 1 / 3 + FLOAT32
    assert torch.equal(round_absmax(torch.zeros(3), 4, torch.zeros(1)), torch.zeros(3))


@pytest.mark.parametrize("attention", ["standard", "differential", "selective"])
def test_rounded_logits_go_through_the_same_softmax(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(attention=attention).eval()
    calls: list[LayerCall] = []
    with torch.no_grad(), watch_attention(model, calls.append):
        model(torch.arange(40)[None])
        for seen in calls:
            call, logits = seen.call, seen.logits()
            largest = logits.masked_fill(logits.isinf(), 0).abs().amax((2, 3), keepdim=True)
            step = largest / 7
            maps = torch.where(logits.isinf(), logits, (logits / step).round() * step).softmax(-1)
            expected = torch.einsum("bhts,bshv->bthv", maps, call.v)
            assert (attend_rounded(call, 4) - expected).abs().max() < FLOAT32
            monkeypatch.setattr("ablate.evaluation.quantization.LOGITS_AT_ONCE", 100)
            assert (attend_rounded(call, 4) - expected).abs().max() < FLOAT32


def test_quantization_leaves_the_model_as_it_was(corpus: Any) -> None:
    model = build(normalization="ngpt").eval()
    asked = subject(model, corpus)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = measure(Quantization(tokens=TOKENS, bits=(12, 2)), asked)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    plain = find(rows, "loss", site="none", bits=32).value
    assert plain == pytest.approx(loss_of(model, asked), abs=FLOAT32)
    for site in ("attention_logits", "activations", "weights"):
        fine, coarse = (find(rows, "loss_increase", site=site, bits=bits).value for bits in (12, 2))
        assert fine is not None and coarse is not None
        assert abs(fine) < 1e-3 and abs(fine) < abs(coarse) / 3
        assert find(rows, "loss", site=site, bits=2).value == pytest.approx(plain + coarse)  # type: ignore[operator]


class PositionModel(KnownModel):
    """Knows the next byte only at the first positions."""

    def encode(self, ids_bt: Tensor, *_: Any) -> Tensor:
        logits = torch.zeros(*ids_bt.shape, 256)
        logits[:, :64] = 40 * F.one_hot(ids_bt[:, :64], 256)
        return logits


def test_length_reads_the_same_tokens_in_windows_of_several_sizes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, b"a" * 2000, b"a" * 2000)  # every target is the input
    rows = measure(Length(tokens=1024, multiples=(1, 2, 4, 64)), subject(PositionModel(), corpus))
    for multiple in (1, 2, 4):
        share = (multiple - 1) / multiple
        assert find(rows, "loss", multiple=multiple).value == pytest.approx(share * math.log(256), abs=FLOAT32)
        expected = math.log(256) if multiple > 1 else 0.0
        assert find(rows, "end_loss", multiple=multiple).value == pytest.approx(expected, abs=FLOAT32)
    assert "2,000 tokens is shorter than 4,096" in find(rows, "loss", multiple=64).note
    learned = measure(Length(tokens=512), subject(build(position="learned"), corpus))
    assert find(learned, "loss", multiple=1).n > 0
    assert "learned positions end at 64" in find(learned, "loss", multiple=2).note


def test_of_a_sequence_only_the_last_corpus_is_read(tmp_path: Path) -> None:
    """The tokens of all corpora counted, and a window that only the longer one holds ended in an error."""
    parts = []
    for size in (2000, 200):
        (folder := tmp_path / str(size)).mkdir()
        parts.append(write_corpus(folder, b"a" * size, b"a" * size))
    info, last = SequenceInfo("ab", 2200, 2200, 256, phases=tuple(part.info for part in parts)), parts[-1]
    corpus = CorpusSequence(info, last.train_path, last.validation_path, last.dtype, phases=tuple(parts))
    rows = measure(Length(multiples=(1, 4)), subject(build(), corpus))
    assert find(rows, "loss", multiple=1).n > 0
    assert "200 tokens is shorter than 256" in find(rows, "loss", multiple=4).note


def test_dropping_scores_the_model_without_the_parts_of_least_importance(corpus: Any) -> None:
    model = build(n_layers=4).eval()
    asked = subject(model, corpus)
    evaluation = Dropping(parts=("joint",), counts=(3, 9), tokens=TOKENS, calibration_tokens=256)
    rows = measure(evaluation, asked)
    ((calibration, _),) = validation_batches(corpus.train, 256, 1000, 64)
    smaller = drop(model, ("attention", "mlp"), 3, [torch.from_numpy(calibration)])
    assert len(smaller.config.dropped) == 3
    loss = find(rows, "loss", part="joint", dropped=3).value
    assert loss == pytest.approx(loss_of(smaller, asked), abs=FLOAT32)
    increase = find(rows, "loss_increase", part="joint", dropped=3).value
    assert increase == pytest.approx(loss - loss_of(model, asked), abs=FLOAT32)  # type: ignore[operator]
    assert "only 8 attention and mlp parts are left" in find(rows, "loss", part="joint", dropped=9).note


def test_condition_numbers_are_medians_over_heads() -> None:
    model = build(attention="differential", normalization="ngpt").eval()
    attention: Any = model.stack.blocks[1].attention
    with torch.no_grad():
        numbers = [2.0, 3.0, 5.0, 7.0]  # of the four maps of two heads
        for index, number in enumerate(numbers):
            basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(index))).Q
            attention.query.weight[4 * index : 4 * index + 4] = (
                torch.tensor([1.0, 1, 1, 1 / number])[:, None] * basis[:4]
            )
    rows = measure(Conditioning(), subject(model))
    row = find(rows, "condition_number", layer=1, matrix="query")
    assert (row.value, row.n) == (pytest.approx(4.0, rel=1e-4), 4)
    output = attention.output.weight.detach().double()
    expected = sum(float(torch.linalg.cond(output[:, 8 * head : 8 * head + 8])) for head in range(2)) / 2
    assert find(rows, "condition_number", layer=1, matrix="output").value == pytest.approx(expected)
    assert find(rows, "norm_mean", matrix="embedding").value == pytest.approx(1.0)
    assert find(rows, "median_condition_number", matrix="mlp_output").n == 2
    assert find(rows, "eigenvalue", matrix="embedding", quantile=0.5).value == pytest.approx(1.0)
    scales = [row for row in rows if row.metric == "scale"]
    assert find(scales, "scale", layer=0, scale="attention_residual.alpha").value == pytest.approx(0.05)
    assert find(scales, "scale", scale="final.s_z").value == pytest.approx(1.0)


def test_a_singular_layer_counts_in_the_median_over_layers() -> None:
    model = build(n_layers=3).eval()
    for n_singular, is_known in ((1, True), (2, False)):
        with torch.no_grad():
            model.stack.blocks[n_singular - 1].mlp.output.weight[0] = 0.0
        rows = measure(Conditioning(), subject(model))
        numbers = [find(rows, "condition_number", layer=layer, matrix="mlp_output").value for layer in range(3)]
        known = [number for number in numbers if number is not None]
        middle = find(rows, "median_condition_number", matrix="mlp_output").value
        assert len(known) == 3 - n_singular
        assert middle == (max(known) if is_known else None)


def test_a_model_that_reads_the_context_contradicts_it_less(corpus: Any) -> None:
    class Reader(RecallModel):
        def encode(self, ids_bt: Tensor, cache: Any = None, padding: object = None) -> Tensor:  # noqa: ARG002
            if cache is None:
                return super().encode(ids_bt)
            cache.seen_bt = ids_bt if cache.length == 0 else torch.cat((cache.seen_bt, ids_bt), 1)
            cache.select = lambda rows: setattr(cache, "seen_bt", cache.seen_bt[rows])
            cache.length += ids_bt.shape[1]
            return super().encode(cache.seen_bt)[:, -ids_bt.shape[1] :]

    evaluation = Hallucination(samples=20, tokens=64)
    reader = find(measure(evaluation, subject(Reader(), corpus, context_length=128)), "contradicting_share")
    assert reader.value == pytest.approx(0.0, abs=FLOAT32)
    ignorant_rows = measure(Hallucination(samples=200, tokens=64), subject(UniformModel(), corpus, context_length=128))
    ignorant = find(ignorant_rows, "contradicting_share")
    assert ignorant.value is not None and ignorant.standard_error is not None
    assert abs(ignorant.value - 0.75) < 3 * ignorant.standard_error


def test_names_are_capitalized_words_inside_sentences() -> None:
    text = "The wizard Quentin asked. Then Quentin and Alice left. Oslo!"
    tokens = list(text.encode())
    repeated, first = find_names(ByteTokenizer(), tokens)
    assert "".join(text[place] for place in first) == "QuentinAlice"
    assert [text[place] for place in repeated] == list("Quentin")
    assert repeated[0] == text.rindex("Quentin")


def test_models_that_do_not_predict_text_and_missing_corpora_are_refused_by_name(corpus: Any) -> None:
    import importlib

    both_ways: Any = build()
    both_ways.is_causal = False
    for name, place in EVALUATIONS.items():
        module, _, attribute = place.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        assert kind.name == name and kind.source and kind.__doc__
        knobs = {"multiple_choice": {"path": "x"}, "lm_eval": {"tasks": ("x",)}}.get(name, {})
        rows = measure(kind(**knobs), subject(both_ways, corpus))
        assert {row.metric for row in rows} == set(kind.metrics)
        assert all("does not predict the next token" in row.note for row in rows)
    (row, *_) = measure(BitsPerByte(), subject(build()))
    assert row.note == "the corpus of its training is not available, and bits_per_byte needs it"
    broken = build()
    broken.embedding.weight.data.fill_(torch.nan)
    assert all("diverged" in row.note for row in measure(BitsPerByte(tokens=64), subject(broken, corpus)))
