"""Numbers and errors as text for people."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

import pytest

from ablate.formatting import format_count, format_number, name_error
from ablate.report.notation import format_ratio, format_time


class CompilerError(Exception):
    """An error like those of torch's compiler, whose message ends with a hint."""

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
        (fail_to_compile, "test_formatting.CompilerError: TypeError: list indices must be integers"),
        (fail_in_handling, "KeyError: 'd_ff'"),
        (fail_in_chain, "ValueError: no size of the MLP"),
        (fail_during_handling, "KeyError: 'd_ff'"),
        (fail_without_message, "ZeroDivisionError"),
        (fail_with_a_list, "RuntimeError: Error(s) in loading state_dict for GPT: Missing key(s): head.weight"),
        (fail_with_a_message_that_begins_below, "ValueError: the loss is not a number"),
        (fail_in_a_group, "ExceptionGroup: 2 of 4 processes (2 sub-exceptions)"),
        (fail_for_another_process, "test_formatting.CompilerError: TypeError: list indices must be integers"),
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


@pytest.mark.parametrize("exponent", range(-4, 32))
def test_numbers_at_the_edge_of_a_unit_have_no_exponent(exponent: int) -> None:
    for digits in (1.0, 1.234, 9.994, 9.995, 9.99999):
        number = digits * 10.0**exponent
        text = format_count(number)
        assert re.fullmatch(r"-?[0-9.]+[kMGTPEZYRQ]?", text), text
        scale = 1000.0 ** ("kMGTPEZYRQ".index(text[-1]) + 1) if text[-1].isalpha() else 1.0
        assert float(text.rstrip("kMGTPEZYRQ")) * scale == pytest.approx(number, rel=0.006)
        assert 1 <= float(text.rstrip("kMGTPEZYRQ")) < 1000 or number < 1
        assert format_count(-number) == f"-{text}"
        assert "e" not in format_number(number) or number < 1e-4


def test_a_number_just_below_a_unit_is_one_of_it() -> None:
    assert format_count(999_999) == "1M"
    assert format_count(999.7) == "1k"
    assert format_count(999_499) == "999k"
    assert format_count(0) == "0"
    assert format_number(1234.5) == "1230"
    assert format_number(123, 2) == "120"
    assert [format_time(seconds) for seconds in (0.99971, 59.97, 3599.9, 86_399.0)] == ["1 s", "1 min", "1 h", "1 d"]
    assert format_time(1e9) == "11600 d"
    assert format_time(0.0123) == "12.3 ms"
    assert [format_ratio(ratio) for ratio in (9.996, 99.96, 1.0)] == ["10.0x", "100x", "1.00x"]
