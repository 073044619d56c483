"""Text to token numbers and back: raw bytes, or GPT-2's byte-pair encoding from local vocabulary files."""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ablate.data.content import ContentError
from ablate.data.files import find_path
from ablate.data.pretokens import PATTERN, find_cut, split_runs
from ablate.errors import DataError
from ablate.study.schema import DataConfig

if TYPE_CHECKING:
    import tiktoken

Tokens = npt.NDArray[np.unsignedinteger]

BLOCK_BYTES = 1 << 20
LONGEST_RUN = 16 << 20
"""Characters of one pre-token that GPT-2's tokenizer takes: a minute, and some gigabytes of memory."""

PADDED_GPT2_VOCABULARY = 50304
"""GPT-2's 50257 tokens, padded to a multiple of 64 as nanoGPT does."""

END_OF_TEXT = "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """`separator` stands between two documents; `identity` is what the hash of a corpus says about the tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]: ...
    @property
    def separator(self) -> int: ...
    @property
    def identity(self) -> str: ...

    def encode(self, text: str) -> Tokens:
        """The tokens of a text: [n]. Lone surrogates count as U+FFFD."""

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD."""

    def encode_stream(self, stream: IO[bytes]) -> Iterator[Tokens]:
        """The tokens of a file, block by block: joined, they equal `encode` of the whole.

        Raises `UnicodeDecodeError` where the tokenizer needs UTF-8 and the file is not, and `ContentError` where a run
        without a boundary is too long for it.
        """


class ByteTokenizer:
    """Each byte is a token. Documents are parted by the byte 0, which text does not hold."""

    vocab_size = 256
    dtype = np.dtype(np.uint8)
    separator = 0
    identity = "bytes"

    def encode(self, text: str) -> Tokens:
        return np.frombuffer(_replace_surrogates(text).encode(), dtype=self.dtype)

    def decode(self, tokens: npt.ArrayLike) -> str:
        return np.asarray(tokens).astype(self.dtype).tobytes().decode(errors="replace")

    def encode_stream(self, stream: IO[bytes]) -> Iterator[Tokens]:
        while block := stream.read(BLOCK_BYTES):
            yield np.frombuffer(block, dtype=self.dtype)


class GPT2Tokenizer:
    """GPT-2's byte-level BPE (Radford et al., 2019), merged by `tiktoken` from the given ranks.

    The text `<|endoftext|>` becomes the separator, as corpora use it between documents.
    Raises `DataError` where `tiktoken` is not installed.
    """

    vocab_size = PADDED_GPT2_VOCABULARY
    dtype = np.dtype("<u2")

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._ranks = ranks
        self.separator = len(ranks)

    @cached_property
    def identity(self) -> str:
        digest = hashlib.sha256()
        for token, rank in sorted(self._ranks.items(), key=lambda item: item[1]):
            digest.update(b"%d %b\n" % (rank, base64.b64encode(token)))
        return f"gpt2:{digest.hexdigest()}"

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return self._build(PATTERN)

    @cached_property
    def _long_encoding(self) -> tiktoken.Encoding:
        """Merges a text as one pre-token. A pattern without a lookahead needs no stack."""
        return self._build(r"(?s:.+)")

    def _build(self, pattern: str) -> tiktoken.Encoding:
        try:
            import tiktoken
        except ImportError:
            raise DataError("tokenizer: gpt2 needs the package tiktoken: pip install tiktoken") from None
        return tiktoken.Encoding(
            "gpt2", pat_str=pattern, mergeable_ranks=self._ranks, special_tokens={END_OF_TEXT: self.separator}
        )

    def encode(self, text: str) -> Tokens:
        tokens: list[int] = []
        for i, document in enumerate(_replace_surrogates(text).split(END_OF_TEXT)):
            if i:
                tokens.append(self.separator)
            for part, is_long in split_runs(document):
                tokens += (self._long_encoding if is_long else self._encoding).encode_ordinary(part)
        return np.array(tokens, dtype=self.dtype)

    def decode(self, tokens: npt.ArrayLike) -> str:
        ids = np.asarray(tokens)
        padding = ids > self.separator  # a model may say them; they stand for nothing
        return self._encoding.decode(ids[~padding].tolist(), errors="replace")

    def encode_stream(self, stream: IO[bytes]) -> Iterator[Tokens]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        text = ""
        while block := stream.read(BLOCK_BYTES):
            text += decoder.decode(block)
            if cut := find_cut(text, END_OF_TEXT):
                yield self.encode(text[:cut])
                text = text[cut:]
            elif len(text) > LONGEST_RUN:
                raise ContentError(
                    f"holds a run of more than {LONGEST_RUN:,} characters without a space or a change from letters to "
                    "digits or signs, too long for tokenizer: gpt2; break it up, or use tokenizer: bytes"
                )
        text += decoder.decode(b"", final=True)
        if text:
            yield self.encode(text)


def load_tokenizer(config: DataConfig, base: Path) -> Tokenizer:
    """The tokenizer that a data section names. Raises `DataError` where GPT-2's vocabulary files cannot be used."""
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    wanted = "the folder that holds encoder.json and vocab.bpe, or gpt2.tiktoken"
    if config.tokenizer_path is None:
        raise DataError(f"data.tokenizer: gpt2 needs data.tokenizer_path: {wanted}")
    folder = find_path(config.tokenizer_path, base)
    for names, read in _VOCABULARIES.items():
        if folder is not None and all((folder / name).is_file() for name in names):
            try:
                return GPT2Tokenizer(read(*(folder / name for name in names)))
            except (
                OSError,
                ValueError,
                TypeError,
                AttributeError,
                LookupError,
                RecursionError,
                binascii.Error,
            ) as error:
                files = " and ".join(str(folder / name) for name in names)
                raise DataError(f"{files}: no vocabulary of GPT-2: {error}") from None
    raise DataError(f"data.tokenizer_path: {config.tokenizer_path}: it would have to be {wanted}")


def _read_tiktoken(path: Path) -> dict[bytes, int]:
    """Lines of a token in base64 and its rank."""
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return _checked({base64.b64decode(token, validate=True): int(rank) for token, rank in lines})


def _read_merges(encoder: Path, merges: Path) -> dict[bytes, int]:
    """A token's number is also its rank in GPT-2's files; `vocab.bpe`, which lists the merges in order, must agree."""
    numbers: dict[str, int] = json.loads(encoder.read_text("utf-8"))
    numbers.pop(END_OF_TEXT, None)
    lines = [line for line in merges.read_text("utf-8").splitlines() if line and not line.startswith("#version")]
    for rank, line in enumerate(lines, start=256):
        if numbers[line.replace(" ", "")] != rank:
            raise ValueError(f"the merge {line!r} does not have the number {rank}")
    if len(lines) != len(numbers) - 256:
        raise ValueError(f"{len(lines)} merges do not make the {len(numbers)} tokens: one of the files is cut short")
    byte_of = _printable_bytes()
    return _checked({bytes(byte_of[sign] for sign in token): rank for token, rank in numbers.items()})


_VOCABULARIES: dict[tuple[str, ...], Callable[..., dict[bytes, int]]] = {
    ("encoder.json", "vocab.bpe"): _read_merges,
    ("gpt2.tiktoken",): _read_tiktoken,
}


def _checked(ranks: dict[bytes, int]) -> dict[bytes, int]:
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError("the tokens are not numbered from 0 without a gap")
    if not 256 <= len(ranks) < PADDED_GPT2_VOCABULARY or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError(f"{len(ranks)} tokens, among which not every single byte, or too many")
    return ranks


def _replace_surrogates(text: str) -> str:
    """The text as it can be encoded: surrogates in pairs as what they stand for, others as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text


def _printable_bytes() -> dict[str, int]:
    """GPT-2's files write a byte as itself where it is printable in Latin-1, else as the next sign from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
