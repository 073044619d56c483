"""The expressions of when, exclude and conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.study.predicates import Predicate, PredicateError

ARM = {
    "attention": "differential",
    "context_length": 512,
    "num_maps": None,
    "model.d_model": 64,
    "train.compile": False,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attention == 'differential'", True),
        ("attention != 'differential'", False),
        ("attention == 'differential' and context_length >= 512", True),
        ("attention == 'standard' or not context_length < 100", True),
        ("attention in ('standard', 'differential')", True),
        ("attention not in ['standard']", True),
        ("128 < context_length <= 512", True),
        ("128 < context_length < 512", False),
        ("model.d_model == 64", True),
        ("not train.compile", True),
        ("train.compile == False", True),
        ("train.compile == 0", False),
        ("train.compile != 0", True),
        ("train.compile in (0, 1)", False),
        ("context_length == 512.0", True),
        ("context_length in (256, 5.12e2)", True),
        ("'diff' in attention", True),
        ("num_maps == 4", False),
        ("num_maps > 4", False),
        ("num_maps < 4", False),
        ("num_maps == None", True),
        ("context_length > -1", True),
        ("True", True),
    ],
)
def test_value(text: str, expected: bool) -> None:
    assert Predicate(text)(ARM) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "attention ==",
        "__import__('os').system('true')",
        "attention.__class__()",
        "[x for x in attention]",
        "attention == 'a' if context_length else 1",
        "lambda: 1",
        "attention[0] == 'd'",
        "(attention := 'x')",
        "context_length + 1 > 3",
        "f'{attention}' == 'x'",
        "attention is None",
        "x" * 3000,
        "(" * 500 + "1" + ")" * 500,
        "not " * 900 + "x",
    ],
)
def test_what_is_not_allowed_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(PredicateError):
        Predicate(text)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(PredicateError, match="'differential' and 3"):
        Predicate("attention < 3")(ARM)


def test_names_and_literals_are_told() -> None:
    predicate = Predicate("attention in ('standard', 'sink') and model.d_model > 3 and num_maps == 2")
    assert predicate.names == {"attention", "model.d_model", "num_maps"}
    assert predicate.literals == {("attention", "standard"), ("attention", "sink")}


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        predicate = Predicate(text)
    except PredicateError:
        return
    assert predicate.text == text
