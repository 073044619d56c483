"""The files of GPT-2's vocabulary: each token with its rank."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from ablate.data.files import find_path
from ablate.errors import DataError

PADDED_GPT2_VOCABULARY = 50304
"""GPT-2's 50257 tokens, padded to a multiple of 64 as nanoGPT does."""

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
GPT2_FOLDER = "a folder with encoder.json and vocab.bpe, or with gpt2.tiktoken"


def read_ranks(key: str, name: str, base: Path) -> dict[bytes, int]:
    """Read the rank of each token from the folder that a setting names.

    Raises `DataError` if the folder has none of the sets of files, or if one of them is not GPT-2's.
    """
    folder = find_path(name, base)
    for names, read in _VOCABULARIES.items():
        if folder is not None and all((folder / name).is_file() for name in names):
            try:
                return read(*(folder / name for name in names))
            except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
                files = " and ".join(str(folder / name) for name in names)
                raise DataError(f"{files}: not a GPT-2 vocabulary: {error}") from None
    also = "" if key == "data.tokenizer_path" else f", or with a {TOKENIZER_FILE}"
    raise DataError(f"{key}: {name}: must be {GPT2_FOLDER}{also}")


def _read_tiktoken(path: Path) -> dict[bytes, int]:
    """Read lines of a token in base64 and its rank."""
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return _checked({base64.b64decode(token, validate=True): int(rank) for token, rank in lines})


def _read_merges(encoder: Path, merges: Path) -> dict[bytes, int]:
    """Read GPT-2's files. A token's number is its rank; `vocab.bpe` lists the merges in order and must agree."""
    numbers: dict[str, int] = json.loads(encoder.read_text("utf-8"))
    numbers.pop(END_OF_TEXT, None)
    lines = [line for line in merges.read_text("utf-8").splitlines() if line and not line.startswith("#version")]
    for rank, line in enumerate(lines, start=256):
        if numbers[line.replace(" ", "")] != rank:
            raise ValueError(f"the merge {line!r} does not have the number {rank}")
    if len(lines) != len(numbers) - 256:
        raise ValueError(f"{len(lines)} merges do not give {len(numbers)} tokens: one of the files is incomplete")
    byte_of = _printable_bytes()
    return _checked({bytes(byte_of[sign] for sign in token): rank for token, rank in numbers.items()})


_VOCABULARIES: dict[tuple[str, ...], Callable[..., dict[bytes, int]]] = {
    ("encoder.json", "vocab.bpe"): _read_merges,
    ("vocab.json", "merges.txt"): _read_merges,  # the names of the same files in Hugging Face's folders
    ("gpt2.tiktoken",): _read_tiktoken,
}


def _checked(ranks: dict[bytes, int]) -> dict[bytes, int]:
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError("the tokens are not numbered from 0 without gaps")
    if not 256 <= len(ranks) < PADDED_GPT2_VOCABULARY or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{len(ranks)} tokens: too many, or some single bytes are missing")
    return ranks


def _printable_bytes() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones of Latin-1 as they are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
