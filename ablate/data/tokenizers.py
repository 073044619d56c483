"""From text to tokens and back: raw bytes, GPT-2's byte-pair encoding, or a user's tokenizer."""

from __future__ import annotations

import base64
import codecs
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ablate.data.content import ContentError
from ablate.data.files import find_path
from ablate.data.gpt2_vocabulary import END_OF_TEXT, PADDED_GPT2_VOCABULARY, TOKENIZER_FILE, read_ranks
from ablate.data.pretokens import PATTERN, find_cut, split_runs
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

if TYPE_CHECKING:
    import tiktoken

Tokens = npt.NDArray[np.unsignedinteger]

BLOCK_BYTES = 1 << 20
LONGEST_RUN = 16 << 20
"""The longest pre-token for GPT-2's tokenizer, in characters. It takes a minute and some gigabytes of memory."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """A tokenizer. `separator` is the token between documents, or None if the vocabulary has no such token.

    `identity` is its part in the hash of a corpus.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]: ...
    @property
    def separator(self) -> int | None: ...
    @property
    def identity(self) -> str: ...

    def __hash__(self) -> int:
        """Encodings are cached per tokenizer."""

    def encode(self, text: str) -> Tokens:
        """The tokens of a text: [n]. Lone surrogates count as U+FFFD."""

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of tokens. Bytes that are not UTF-8 become U+FFFD."""

    def count_bytes(self, tokens: Tokens) -> int:
        """The UTF-8 bytes of the text of tokens. Separators have no text."""

    def encode_stream(self, stream: IO[bytes]) -> Iterator[Tokens]:
        """The tokens of a file in blocks. For bytes and GPT-2, together they equal `encode` of the whole file.

        Raises `UnicodeDecodeError` where the tokenizer needs UTF-8 and the file is not, and `ContentError` where a run
        without a boundary is too long for it.
        """


class ByteTokenizer:
    """Every byte is one token. The byte 0, which text does not contain, separates documents."""

    vocab_size = 256
    dtype = np.dtype(np.uint8)
    separator = 0
    identity = "bytes"

    def encode(self, text: str) -> Tokens:
        return np.frombuffer(_replace_surrogates(text).encode(), dtype=self.dtype)

    def decode(self, tokens: npt.ArrayLike) -> str:
        return np.asarray(tokens).astype(self.dtype).tobytes().decode(errors="replace")

    def count_bytes(self, tokens: Tokens) -> int:
        return int((tokens != self.separator).sum())

    def encode_stream(self, stream: IO[bytes]) -> Iterator[Tokens]:
        while block := stream.read(BLOCK_BYTES):
            yield np.frombuffer(block, dtype=self.dtype)


class GPT2Tokenizer:
    """GPT-2's byte-level BPE (Radford et al., 2019), merged by `tiktoken` from the given ranks.

    The text `<|endoftext|>` becomes the separator, because corpora use it between documents.
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
        """An encoding that merges a text as one pre-token. A pattern without lookahead needs no stack."""
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

    def count_bytes(self, tokens: Tokens) -> int:
        return int(self._lengths[np.minimum(tokens, self.separator)].sum())

    @cached_property
    def _lengths(self) -> npt.NDArray[np.int64]:
        """The bytes of each token, and 0 for the separator."""
        lengths = np.zeros(self.separator + 1, dtype=np.int64)
        for token, rank in self._ranks.items():
            lengths[rank] = len(token)
        return lengths

    def decode(self, tokens: npt.ArrayLike) -> str:
        ids = np.asarray(tokens)
        padding = ids > self.separator  # a model may predict them, but they have no text
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
                    f"contains a run of more than {LONGEST_RUN:,} characters without a space or a change from letters "
                    "to digits or signs, too long for tokenizer: gpt2; break it up, or use tokenizer: bytes"
                )
        text += decoder.decode(b"", final=True)
        if text:
            yield self.encode(text)


class WholeTextTokenizer(ABC):
    """A tokenizer that may join any neighboring characters, so that no cut of a text is known to be safe.

    Files of plain text are therefore defined to be encoded in parts of about a MiB that end with a line. The text
    `<|endoftext|>` becomes the separator, if there is one.
    """

    vocab_size: int
    separator: int | None = None

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    @abstractmethod
    def encode_part(self, text: str) -> list[int]:
        """The tokens of a text without separators and lone surrogates."""

    def encode(self, text: str) -> Tokens:
        text = _replace_surrogates(text)
        if self.separator is None:
            return np.array(self.encode_part(text), dtype=self.dtype)
        first, *others = text.split(END_OF_TEXT)
        tokens = self.encode_part(first)
        for part in others:
            tokens += (self.separator, *self.encode_part(part))
        return np.array(tokens, dtype=self.dtype)

    @abstractmethod
    def decode(self, tokens: npt.ArrayLike) -> str: ...

    def count_bytes(self, tokens: Tokens) -> int:
        """As the protocol says. A character that is cut at either end counts as the three bytes of U+FFFD."""
        text = tokens if self.separator is None else tokens[tokens != self.separator]
        return len(self.decode(text).encode())

    def encode_stream(self, stream: IO[bytes]) -> Iterator[Tokens]:
        for part in _cut_lines(stream):
            yield self.encode(part)


def _cut_lines(stream: IO[bytes]) -> Iterator[str]:
    """The text of a file in parts of at least `BLOCK_BYTES` characters, which end with a line."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, is_last = "", False
    while not is_last:
        block = stream.read(BLOCK_BYTES)
        is_last = not block
        text += decoder.decode(block, final=is_last)
        while len(text) > BLOCK_BYTES and (cut := text.find("\n", BLOCK_BYTES) + 1):
            yield text[:cut]
            text = text[cut:]
        if len(text) > LONGEST_RUN:
            raise ContentError(f"contains a line of more than {LONGEST_RUN:,} characters, too long for this tokenizer")
    if text:
        yield text


def load_tokenizer(config: DataConfig, base: Path) -> Tokenizer:
    """Load the tokenizer of a data section. Nothing is ever downloaded.

    Raises `DataError` if there is no tokenizer of that name, or if its files are missing or cannot be used.
    """
    name = config.tokenizer
    if name == "bytes":
        return ByteTokenizer()
    if name == "gpt2" and config.tokenizer_path is not None:
        return GPT2Tokenizer(read_ranks("data.tokenizer_path", config.tokenizer_path, base))
    place = find_path(name, base)
    is_folder = place is not None and place.is_dir() and name != "gpt2"
    if name.endswith(".json") or (is_folder and place is not None and (place / TOKENIZER_FILE).is_file()):
        from ablate.data.tokenizer_file import FileTokenizer

        if place is None:
            raise DataError(f"data.tokenizer: {name}: there is no such file")
        return FileTokenizer(place / TOKENIZER_FILE if place.is_dir() else place)
    if is_folder:
        return GPT2Tokenizer(read_ranks("data.tokenizer", name, base))
    from ablate.data.encodings import load_encoding

    return load_encoding(name, config.tokenizer_path, base)


def _replace_surrogates(text: str) -> str:
    """Make a text encodable: pairs of surrogates become their character, others become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text
