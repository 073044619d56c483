"""Log-likelihoods with shared contexts equal those of whole texts, read one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import build
from torch.nn import functional as F

from ablate.data.tokenizers import ByteTokenizer
from ablate.errors import DataError
from ablate.evaluation.choice_items import Item, read_items
from ablate.evaluation.choose import choose
from ablate.evaluation.multiple_choice import MultipleChoice, judge
from ablate.evaluation.scoring import Request, Score, encode_pair, fit, score_requests
from ablate_model import GPT

CPU = torch.device("cpu")
NATS = 1e-4
REQUESTS = [
    Request(context, continuation)
    for context in ((1, 2, 3), (4, 5, 6), (7,), (1, 2, 3, 4))
    for continuation in ((8,), (9, 10, 11), (12, 13))
] + [Request((1, 2, 3), (14, 15, 16, 17, 18))]


def score_alone(model: GPT, request: Request) -> float:
    ids = torch.tensor([[*request.context, *request.continuation]])
    logits = model(ids[:, :-1])[0, len(request.context) - 1 :]
    return -float(F.cross_entropy(logits, ids[0, len(request.context) :], reduction="sum"))


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": "differential_v2", "value_residual": "learned"},
        {"attention": "selective"},
        {"attention": "forgetting", "normalization": "ngpt"},
        {"position": "learned", "attention": {"name": "standard", "window": 3}},
    ],
    ids=str,
)
def test_a_shared_context_changes_no_score(settings: dict[str, Any]) -> None:
    model = build(**settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        scores = score_requests(model, CPU, REQUESTS)
        assert [score.log_likelihood for score in scores] == pytest.approx(
            [score_alone(model, request) for request in REQUESTS], abs=NATS
        )
        best = model(torch.tensor([[1, 2, 3]]))[0, -1].argmax()
        (greedy,) = score_requests(model, CPU, [Request((1, 2, 3), (int(best),))])
    assert greedy.is_greedy and not all(score.is_greedy for score in scores)


def test_a_context_is_read_once_for_all_its_continuations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = build().eval(), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda ids, *rest: read.append(ids.numel()) or encode(ids, *rest))
    score_requests(model, CPU, REQUESTS)
    contexts = sum(len(context) for context in {request.context for request in REQUESTS})
    # two batches of one context and one of two; continuations are padded, and their last tokens are not read
    assert sum(read) == contexts + 3 * 2 + 3 * 2 + 7 * 4


def test_spaces_and_long_contexts_are_treated_as_by_the_harness() -> None:
    tokenizer = ByteTokenizer()
    assert encode_pair(tokenizer, "ab ", "c") == Request((97, 98), (32, 99))
    assert encode_pair(tokenizer, "", "c") == Request((0,), (99,))
    assert fit(Request((1, 2, 3), (4, 5)), 3) == Request((2, 3), (4, 5))
    assert fit(Request((1, 2, 3), (4, 5, 6)), 2) is None


def test_accuracies_take_the_sum_and_the_mean_per_character() -> None:
    item = Item(("q", "q"), (" a", " bbbbbbbb"), ("a", "bbbbbbbb"), gold=1)
    assert judge(item, [Score(-2.0, False), Score(-4.0, False)]) == (0.0, 1.0)
    assert judge(Item(("q",), (" a",), ("a",), 0), [Score(-9.0, True)]) == (1.0, 1.0)


def test_items_that_do_not_fit_are_counted_and_left_out(tmp_path: Any) -> None:
    file = tmp_path / "quiz.jsonl"
    file.write_text(
        '{"query": "Q", "choices": ["a", "b"], "gold": 0}\n{"query": "Q", "choices": ["a", "%s"], "gold": 1}'
        % ("b" * 70)
    )
    from oracles import subject

    rows = list(MultipleChoice(path=str(file)).evaluate(subject(build())))
    assert {row.metric: row.n for row in rows} == {"acc": 1, "acc_norm": 1, "gold_bits_per_byte": 1}
    assert all(row.within == {"task": "quiz"} and row.note == "1 items do not fit the trained context" for row in rows)
    assert rows[0].chance == 0.5
    before = MultipleChoice(path=str(file)).describe()
    assert choose("multiple_choice", {"path": file.name}, tmp_path).knobs == {"path": str(file)}
    file.write_text('{"query": "Q", "choices": ["a", "b"], "gold": 1}')
    assert MultipleChoice(path=str(file)).describe()["data"] != before["data"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "Q", "choices": ["a", "b"]}', "line 1: the key 'gold' is missing"),
        ('{"query": "Q", "choices": ["a"], "gold": 3}', "line 1: gold: 3 is not one of 1 choices"),
        ("\n{", "line 2: not an item of several choices"),
        ("[1]", "line 1: not an item of several choices"),
    ],
)
def test_a_bad_line_is_named(content: str, message: str, tmp_path: Any) -> None:
    (tmp_path / "quiz.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_items(tmp_path / "quiz.jsonl", (), None))
    with pytest.raises(DataError, match=r"no task 'quizz'; did you mean 'quiz'\?"):
        list(read_items(tmp_path, ("quizz",), None))
    with pytest.raises(DataError, match="there is no such file or folder"):
        list(read_items(tmp_path / "other.jsonl", (), None))
