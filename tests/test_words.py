"""Numbers and errors as people read them."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from ablate.words import name_error


class CompilerError(Exception):
    """As torch's compiler raises it: the hint how to see more comes last."""

    def __str__(self) -> str:
        return "TypeError: list indices must be integers\n\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace\n"


def fail_to_compile() -> None:
    raise CompilerError


def fail_in_handling() -> None:
    try:
        fail_to_compile()
    except CompilerError:
        raise KeyError("d_ff") from None


def fail_in_chain() -> None:
    try:
        raise KeyError("d_ff")
    except KeyError as error:
        raise ValueError("no size of the MLP\nhint\nhint\n") from error


def fail_during_handling() -> None:
    try:
        fail_to_compile()
    except CompilerError:
        return {}["d_ff"]


def fail_without_message() -> None:
    raise ZeroDivisionError


def fail_with_a_list() -> None:
    raise RuntimeError("Error(s) in loading state_dict for GPT:\n\tMissing key(s): head.weight\n\tUnexpected key(s): w")


def fail_with_a_message_that_begins_below() -> None:
    raise ValueError("\n\nthe loss is not a number")


def fail_in_a_group() -> None:
    try:
        fail_to_compile()
    except CompilerError as error:
        raise ExceptionGroup(
            "2 of 4 processes", [error, ValueError("no\nTraceback (most recent call last):")]
        ) from error


def fail_for_another_process() -> None:
    try:
        fail_to_compile()
    except CompilerError:
        raise RuntimeError(f"\n\n-- Process 1 terminated with:\n{traceback.format_exc()}") from None


def fail_to_parse() -> None:
    compile("a = = b", "grid", "exec")


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (fail_to_compile, "test_words.CompilerError: TypeError: list indices must be integers"),
        (fail_in_handling, "KeyError: 'd_ff'"),
        (fail_in_chain, "ValueError: no size of the MLP"),
        (fail_during_handling, "KeyError: 'd_ff'"),
        (fail_without_message, "ZeroDivisionError"),
        (fail_with_a_list, "RuntimeError: Error(s) in loading state_dict for GPT: Missing key(s): head.weight"),
        (fail_with_a_message_that_begins_below, "ValueError: the loss is not a number"),
        (fail_in_a_group, "ExceptionGroup: 2 of 4 processes (2 sub-exceptions)"),
        (fail_for_another_process, "test_words.CompilerError: TypeError: list indices must be integers"),
        (fail_to_parse, "SyntaxError: invalid syntax"),
    ],
)
def test_an_error_is_named_by_the_exception_not_by_the_end_of_its_message(
    fail: Callable[[], object], line: str
) -> None:
    with pytest.raises(Exception) as caught:
        fail()
    assert name_error("".join(traceback.format_exception(caught.value))) == line


def test_an_error_that_is_no_traceback_is_its_last_line() -> None:
    assert name_error("its worker died 3 times:\nnode lost\n\n") == "node lost"
    assert name_error("flex has no gradients on a CPU:") == "flex has no gradients on a CPU:"
    assert name_error(" \n") == name_error("") == ""


def test_a_traceback_that_was_cut_is_named_by_the_last_that_is_left() -> None:
    with pytest.raises(CompilerError) as caught:
        fail_to_compile()
    whole = "".join(traceback.format_exception(caught.value))
    assert name_error(whole[: whole.index("raise CompilerError") + 5]) == "raise"
    assert name_error("Traceback (most recent call last):\n") == ""
