"""Needles and associative recall: perfect and ignorant models, positions by construction, masses of our own maps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import RandomModel, RecallModel, UniformModel, build, subject, without_text, write_corpus

from ablate.data.recall import Alphabet, draw_recall, shortest_length
from ablate.data.tokenizers import ByteTokenizer
from ablate.evaluation.base import Evaluation, Row, Subject
from ablate.evaluation.haystack import Filler, hide, write_pairs, write_sentences
from ablate.evaluation.language_model import generator
from ablate.evaluation.needle import MEANS, Needle, score_haystacks
from ablate.evaluation.recall import Recall
from ablate_model.attention_maps import LayerCall, watch_attention

LENGTH = 64
TEXT = b"Sphinx of black quartz, judge my vow; pack my box with five dozen liquor JUGS! " * 40


def rows(evaluation: Evaluation, asked: Subject) -> list[Row]:
    return list(evaluation.evaluate(asked))


def is_at_chance(row: Row) -> bool:
    assert row.value is not None and row.chance is not None and row.standard_error is not None
    return abs(row.value - row.chance) <= 2.6 * row.standard_error


RECALL = Recall(pairs=(2, 8, 16), samples=40)
NEEDLE = Needle(samples=5, form="pairs", depths=(0.0, 0.5, 1.0))


@pytest.mark.parametrize("evaluation", [RECALL, NEEDLE], ids=lambda evaluation: evaluation.name)
@pytest.mark.parametrize("has_text", [True, False], ids=["text", "tokens"])
def test_a_model_that_recalls_perfectly_scores_1_and_others_chance(
    evaluation: Evaluation, has_text: bool, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path, TEXT, TEXT)
    for model in (RecallModel(), UniformModel(), RandomModel()):
        found = rows(evaluation, subject(model, corpus) if has_text else without_text(model))
        shares = [row for row in found if "accuracy" in row.metric]
        assert len(shares) == (6 if evaluation is RECALL else 2 * 4 * 4)
        for row in shares:
            assert row.n > 0, row.note
            if isinstance(model, RecallModel):
                assert row.value == 1.0, row
            else:
                assert is_at_chance(row), row
            if isinstance(model, UniformModel):
                assert row.value == pytest.approx(row.chance)
        losses = [row for row in found if row.metric in ("loss", "loss_at_depth")]
        assert all(row.chance == pytest.approx(math.log(256)) for row in losses)
        if isinstance(model, UniformModel):
            assert all(row.value == pytest.approx(math.log(256)) for row in losses)


def test_needles_in_words_are_found_by_a_model_that_recalls(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, TEXT, TEXT)
    evaluation = Needle(form="text", cells=((2, 2),), depths=(0.0, 1.0), samples=3)
    found = rows(evaluation, subject(RecallModel(), corpus, context_length=256))
    assert [row.value for row in found if "accuracy" in row.metric] == [1.0, 1.0, 1.0]
    assert {row.metric.removesuffix("_at_depth") for row in found} == {
        "accuracy",
        "loss",
    }  # no other values to choose from, and no attention


def test_cells_that_do_not_fit_the_context_say_so(tmp_path: Path) -> None:
    asked = subject(build(context_length=32), write_corpus(tmp_path, TEXT, TEXT), context_length=32)
    found = {
        (row.within["needles"], row.metric): row for row in rows(Needle(samples=2), asked) if "depth" not in row.within
    }
    assert found[1, "accuracy"].n == 10
    for metric in MEANS:
        row = found[6, metric]
        assert (row.value, row.n) == (None, 0)
        assert "6 needles and 2 questions do not fit 32 tokens" in row.note
    recalled = rows(Recall(pairs=(8, 9), samples=4), asked)
    assert [row.n for row in recalled] == [4, 4, 4, 0, 0, 0]
    assert recalled[-1].note == "9 pairs need 35 tokens; the sequence has 32"


@pytest.mark.parametrize("n_pairs", [1, 3, 8])
def test_every_key_is_asked_once_and_every_answer_is_its_value(n_pairs: int) -> None:
    alphabet = Alphabet.halves(40)
    for length in (shortest_length(n_pairs), 50):
        batch = draw_recall(generator(1), 20, n_pairs, length, alphabet)
        assert batch.ids.shape == (20, length)
        for ids, queries, answers, values in zip(batch.ids, batch.queries, batch.answers, batch.values, strict=True):
            pairs = dict(zip(ids[0 : 2 * n_pairs : 2], ids[1 : 2 * n_pairs : 2], strict=True))
            assert len(pairs) == n_pairs and set(pairs) <= set(alphabet.keys) and set(values) <= set(alphabet.values)
            assert [pairs[key] for key in ids[queries]] == list(answers)
            assert sorted(ids[queries]) == sorted(pairs)
            assert (np.diff(queries) > 1).all() and queries[0] >= 2 * n_pairs
            inside = queries[queries + 1 < length]
            assert (ids[inside + 1] == answers[: len(inside)]).all()
            rest = np.delete(ids[2 * n_pairs :], np.concatenate((queries, inside + 1)) - 2 * n_pairs)
            assert (rest == 0).all()
    with pytest.raises(ValueError, match="3 pairs do not fit 10 tokens"):
        draw_recall(generator(1), 1, 3, 10, alphabet)


@pytest.mark.parametrize("form", ["text", "pairs"])
def test_the_needle_is_at_its_depth_and_holds_the_answer(form: str, tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    language = write_sentences(tokenizer) if form == "text" else write_pairs(tokenizer, 256)
    filler = Filler(subject(build(), write_corpus(tmp_path, TEXT, TEXT)))
    for depth in (0.0, 0.25, 0.5, 1.0):
        draw = generator(5)
        facts = language.draw_facts(draw, 4)
        stack = hide(draw, facts, 2, depth, 600, language, filler)
        assert stack is not None and len(stack.ids) == len(stack.is_filler) == 600
        n_filler = sum(stack.is_filler)
        first, _ = stack.questions
        assert sum(stack.is_filler[: first.needle_start]) == round(depth * n_filler)
        text = tokenizer.decode(stack.ids)
        for fact, question in zip(facts, stack.questions, strict=False):
            needle = [*fact.lead, *fact.value, *language.end]
            assert stack.ids[question.needle_start : question.needle_end] == needle
            assert stack.ids[question.start : question.end] == fact.value
            assert stack.ids[: question.start][-len(fact.lead) :] == fact.lead
            assert question.start > question.needle_end
            assert not any(stack.is_filler[question.needle_start : question.needle_end])
        for fact in facts:
            assert text.count(tokenizer.decode(fact.lead)) == (2 if fact in facts[:2] else 1)
        assert question.end == 600
    short = sum(len(fact.lead) + len(fact.value) + len(language.end) for fact in facts)
    assert hide(generator(5), facts, 2, 0.5, short, language, filler) is None


@pytest.mark.parametrize("attention", ["differential", "forgetting"])
def test_masses_are_shares_of_the_effective_maps(attention: str, tmp_path: Path) -> None:
    model = build(attention=attention, normalization="ngpt").eval()
    if attention == "differential":  # its scale is lost in the norm that follows, so training may let it run away
        with torch.no_grad():
            model.stack.blocks[0].attention.lambda_q1.fill_(3.0)
            model.stack.blocks[0].attention.lambda_k1.fill_(3.0)
    asked = subject(model, write_corpus(tmp_path, TEXT, TEXT))
    language, evaluation = write_pairs(asked.tokenizer, 256), Needle(samples=3)
    stacks = evaluation.build(language, Filler(asked), (2, 2), 0.5, LENGTH)
    assert len(stacks) == 3
    with torch.no_grad():
        found = score_haystacks(model, asked.device, stacks, language.values)
        layers: list[LayerCall] = []
        with watch_attention(model, layers.append):
            model(torch.tensor([stack.ids[:-1] for stack in stacks]))
        for b, stack in enumerate(stacks):
            needle, noise = [], []
            for layer in layers:
                for head in layer.effective_maps()[b]:
                    for question in stack.questions:
                        row = head[question.start - 1] / head[question.start - 1].abs().sum()
                        needle.append(row[question.needle_start : question.needle_end].sum())
                        noise.append(row[torch.tensor(stack.is_filler[:LENGTH])].sum())
            assert float(found["needle_mass"][b]) == pytest.approx(float(torch.stack(needle).mean()), abs=1e-6)
            assert float(found["noise_mass"][b]) == pytest.approx(float(torch.stack(noise).mean()), abs=1e-6)
    assert (found["needle_mass"] != found["noise_mass"]).all()
    assert (found["needle_mass"].abs() + found["noise_mass"].abs() <= 1).all()


def test_all_seeds_and_arms_see_the_same_items(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, TEXT, TEXT)
    language = write_pairs(ByteTokenizer(), 256)
    again = [
        Needle(samples=2).build(language, Filler(subject(build(**arm), corpus)), (2, 1), 0.5, LENGTH)
        for arm in ({}, {"attention": "differential"})
    ]
    assert again[0] == again[1]
    assert again[0][0] != again[0][1]
