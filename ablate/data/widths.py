"""Tell uint16 tokens from other files, which look like tokens when two bytes at a time are read.

In tokens of a language, even and odd places have the same kind of tokens, and the two bytes of a token have different
distributions. A check needs enough tokens to exclude chance, so short files pass. Evenly distributed bytes pass too,
because they are also evenly distributed uint16 tokens.
"""

from __future__ import annotations

import pickletools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablate.data.content import recognize

Tokens = npt.NDArray[np.unsignedinteger]

JUDGED_TOKENS = 1 << 22
HEADERS = (20240520, 20240801)  # llm.c's, for GPT-2's and Llama 3's tokens
WIDEST_UPPER = 16  # limit for the upper halves of tokens in a vocabulary of a million
FEW_PAIRS = 32
MANY_PAIRS = 512  # for small vocabularies, which may have a separator at every other place
META_BYTES = 1 << 24
CERTAIN = 28.0  # log-odds: a trillion to one

_FLOATS = (0x3580, 0x4980)  # upper halves of float32 and float64 numbers from a millionth to a million


def find_fault(tokens: Tokens) -> str | None:
    """What a file read as `<u2` tokens, [n], seems to contain instead, or None for plausible uint16 tokens."""
    tokens = tokens[:JUDGED_TOKENS]
    head = tokens[:1024].tobytes()
    if known := recognize(head, may_be_tokens=True):
        return f"{known[0]} data"
    if len(tokens) >= 4 and int(tokens[:2].view("<i4")[0]) in HEADERS:
        return "tokens behind llm.c's header of 1,024 bytes"
    if _is_text(head):
        return "text"
    lower, upper = _pairs(tokens)
    if _is_float(tokens):
        return "float numbers"
    if _is_wide(lower, upper):
        return "uint64 tokens" if not tokens[2::4].any() and not tokens[3::4].any() else "uint32 tokens"
    if _is_wide(upper.byteswap(), lower.byteswap()):
        return "big-endian uint32 tokens"
    if order := _find_restricted(tokens):
        return order
    return "uint8 tokens" if _is_narrow(tokens) else None


def read_vocab_size(path: Path) -> int | None:
    """The `vocab_size` in nanoGPT's meta.pkl, or None. Its opcodes are read but never run."""
    try:
        with path.open("rb") as file:
            opcodes = list(pickletools.genops(file.read(META_BYTES)))
    except (OSError, ValueError, LookupError):
        return None
    # An opcode between a key and its value may memoize the key.
    values = [value for code, value, _ in opcodes if code.name != "MEMOIZE" and "PUT" not in code.name]
    following = values[values.index("vocab_size") + 1 :] if "vocab_size" in values else []
    return following[0] if following and isinstance(following[0], int) else None


def _pairs(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """The tokens at even and odd places, without the upper halves of negative numbers, which mark padding."""
    lower, upper = tokens[: len(tokens) // 2 * 2 : 2], tokens[1::2]
    positive = upper != 0xFFFF
    return lower[positive], upper[positive]


def _is_wide(lower: Tokens, upper: Tokens) -> bool:
    """Tell if the largest tokens are all among `lower`, and `upper` is almost empty."""
    if not len(upper) or upper.max() >= WIDEST_UPPER:
        return False
    if upper.any() and (lower.max() < 1 << 15 or upper.all()):
        return False  # a vocabulary beyond 65,536 fills the lower halves, and its first tokens are in use
    return bool((lower > upper.max()).sum() >= (FEW_PAIRS if lower.max() >= 256 else MANY_PAIRS))


def _is_float(tokens: Tokens) -> bool:
    """Tell if every second or fourth token is the upper half of a float of usual size, and the others are not.

    Below their upper half, small whole numbers are zero; in 16 bits they skip everything between 0 and 1.
    """
    for stride in (2, 4):
        rest, top = tokens[::stride], tokens[stride - 1 :: stride]
        if len(top) and top.any() and _are_upper_halves(top).all():
            if (~_are_upper_halves(rest)).sum() >= FEW_PAIRS:
                return True
            if not rest.any() and len(rest) >= MANY_PAIRS:
                return True
    values = np.unique(tokens)
    return bool(len(values) > WIDEST_UPPER and values[0] == 0 and values[1] >= 0x3C00 and values[-1] < 0x7C00)


def _are_upper_halves(tokens: Tokens) -> npt.NDArray[np.bool_]:
    size = tokens & 0x7FFF
    found: npt.NDArray[np.bool_] = (tokens == 0) | ((size >= _FLOATS[0]) & (size <= _FLOATS[1]))
    return found


def _find_restricted(tokens: Tokens) -> str | None:
    """What the tokens are if their lower bytes lack values that many different tokens would have."""
    counts = np.bincount(tokens, minlength=1 << 16)
    counts[0] = 0
    frequent = np.argsort(counts, kind="stable")[::-1][:255]
    frequent = frequent[counts[frequent] > 0]
    n_multiples = int((frequent % 256 == 0).sum())
    if n_multiples >= 3 and 2 * n_multiples >= len(frequent):
        return "big-endian uint16 tokens"
    present = np.flatnonzero(counts)
    lowest = int((present % 256).max(initial=0))
    large = present[present >= 256]
    if len(large) * np.log(256 / (lowest + 1)) < CERTAIN or len(np.unique(large // 256)) < WIDEST_UPPER:
        return None
    beyond = int(large.max()) // 256 - lowest
    if beyond > WIDEST_UPPER and len(np.unique(large // 256)) > lowest:
        return "big-endian uint16 tokens"
    return "uint8 tokens" if abs(beyond) <= WIDEST_UPPER else None


def _is_narrow(tokens: Tokens) -> bool:
    """Tell if both bytes of the tokens have the same distribution, which is not uniform.

    The most common byte does not count, so runs of one token and padding do not either.
    """
    first, second = (np.bincount(part, minlength=256).astype(float) for part in (tokens & 0xFF, tokens >> 8))
    commonest = int((first + second).argmax())
    first[commonest] = second[commonest] = 0
    n_values = int((first + second > 0).sum())
    if min(first.sum(), second.sum()) < MANY_PAIRS or n_values < 4:
        return False
    shares = first / first.sum(), second / second.sum()
    uniform = np.full(256, 1 / 255)
    uniform[commonest] = 0
    apart = np.abs(shares[0] - shares[1]).sum() / 2
    uneven = np.abs(shares[0] - uniform).sum() / 2
    return bool(uneven > 0.05 and apart < uneven / 4)


def _is_text(head: bytes) -> bool:
    """Tell if the bytes are printable UTF-8. The bytes of tokens rarely are, and never for long."""
    text = head.decode("utf-8", "ignore")
    whole = len(text.encode()) >= len(head) - 3  # the last character may be cut
    n_pairs = len({head[i : i + 2] for i in range(0, len(head), 2)})  # a few distinct tokens may look like text
    return whole and n_pairs >= 12 and all(sign.isprintable() or sign.isspace() for sign in text)
