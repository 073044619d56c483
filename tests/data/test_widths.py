"""Token files of other widths are recognized, and uint16 files are not mistaken for them."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ablate.data.widths import find_fault

VOCABULARIES = (1, 2, 4, 16, 65, 200, 256, 257, 300, 1000, 50257, 60000, 65000, 65280, 65535, 65536)
LARGER = (65, 200, 256, 300, 1000, 50257, 65536, 100277, 128256, 151936, 200019, 250002, 256000, 262208, 500000)


def draw(kind: str, rng: np.random.Generator, n_values: int, n: int) -> np.ndarray:
    if kind == "uniform":
        return rng.integers(0, n_values, n)
    return np.minimum(rng.zipf(1.2, n) - 1, n_values - 1)


def read_as_uint16(content: bytes) -> np.ndarray:
    return np.frombuffer(content[: len(content) // 2 * 2], "<u2")


@pytest.mark.parametrize("n", [1, 2, 3, 20, 64, 500, 60000])
@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_uint16_tokens_are_never_refused(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    for n_values in VOCABULARIES:
        tokens = draw(kind, rng, n_values, n)
        one = np.full(n, rng.integers(65536))
        one[rng.integers(n)] = n_values - 1
        sets = {
            "plain": tokens,
            "in order": np.sort(tokens),
            "the end of an order": np.sort(tokens)[-max(n // 10, 1) :],
            "other numbers": rng.permutation(65536)[tokens],
            "runs": np.repeat(tokens, 10),
            "padded": np.append(tokens, np.zeros(20 * n, int)),
            "with an end of text": np.append(tokens, 50256),
            "constant": np.full(n, n_values - 1),
            "constant but for one": one,
        }
        for name, content in sets.items():
            assert find_fault(content.astype("<u2")) is None, (name, n_values)


def test_tokens_with_an_order_of_their_own_are_taken() -> None:
    numbers = [[a + 3, 0, b + 3, 1, (a + b) % 97 + 3, 2] for a in range(97) for b in range(97)]
    for tokens in (np.arange(65536), np.arange(40000)[::-1], np.arange(20000, 30000), np.array(numbers).ravel()):
        assert find_fault(tokens.astype("<u2")) is None


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
@pytest.mark.parametrize("dtype", ["<u4", "<i8", ">u4", ">i8", "<f4", "<f8"])
def test_wider_tokens_are_named(dtype: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    word = "float" if "f" in dtype else "uint"
    for n_values in LARGER:
        fault = find_fault(read_as_uint16(draw(kind, rng, n_values, 30000).astype(dtype).tobytes()))
        assert fault is not None and word in fault, n_values


def test_tokens_of_one_byte_in_the_other_order_and_in_half_precision_are_named() -> None:
    rng = np.random.default_rng(0)
    for kind in ("uniform", "zipf"):
        for n_values in (20, 65, 128, 200):
            assert find_fault(read_as_uint16(draw(kind, rng, n_values, 30000).astype("u1").tobytes())) == "uint8 tokens"
        for n_values in (65, 200, 256, 300, 1000, 50257):
            fault = find_fault(read_as_uint16(draw(kind, rng, n_values, 30000).astype(">u2").tobytes()))
            assert fault == "big-endian uint16 tokens"
        for n_values in (65, 1000):
            values = draw(kind, rng, n_values, 30000).astype("<f2")
            assert find_fault(read_as_uint16(values.tobytes())) == "float numbers"


def test_padding_with_negative_numbers_does_not_hide_the_width() -> None:
    rng = np.random.default_rng(0)
    for n_values in LARGER:
        tokens = rng.integers(0, n_values, 30000).astype("<i4")
        tokens[::10] = -100
        assert find_fault(read_as_uint16(tokens.tobytes())) == "uint32 tokens"


def test_headers_formats_and_text_are_named() -> None:
    tokens = np.random.default_rng(0).integers(0, 50257, 5000).astype("<u2")
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(tokens)
    assert "llm.c" in str(find_fault(read_as_uint16(header.tobytes() + tokens.tobytes())))
    saved = io.BytesIO()
    np.save(saved, tokens)
    assert find_fault(read_as_uint16(saved.getvalue())) == "NumPy .npy data"
    for text in ("the cat sat on a mat and then it ran to the sea\n" * 9, "кошка сидела на ковре, " * 9):
        assert find_fault(read_as_uint16(text.encode())) == "text"
    weights = np.random.default_rng(0).normal(size=5000)
    assert find_fault(read_as_uint16((weights * 0.02).astype("<f4").tobytes())) == "float numbers"
