"""The contract of a source: which files it reads, how they are divided, and the tokens of a part of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ablate.data.files import Kind, stamp_of
from ablate.data.splits import File, Split, find_split, share_of
from ablate.data.tokenizers import Tokenizer, Tokens
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

PIECE_BYTES = 16 << 20
"""About this much of a corpus is tokenized at a time, so an interruption loses at most that much per process."""


@dataclass(frozen=True)
class Span:
    """A part of a file: from `start` up to `stop`, in units of the source, about `size` bytes.

    `is_held_out` is None if each document decides for itself. With `is_next`, a separator comes first.
    """

    file: File
    start: int
    stop: int
    size: int
    is_held_out: bool | None = False
    is_next: bool = False


class Block(NamedTuple):
    """Tokens of one split, [n], the share of the span that has been read so far, and the place of a document's text
    among all texts (see `share_of`), if the tokens are a document."""

    tokens: Tokens
    is_held_out: bool
    done: float
    share: int | None = None


class Source(ABC):
    """A kind of corpus."""

    summary: ClassVar[str]
    validation: ClassVar[str]
    """How its validation split is chosen if the grid does not name one."""

    @abstractmethod
    def split(self, config: DataConfig, base: Path) -> Split:
        """The files of the corpus. Raises `DataError` as `split_files` does."""

    def cut(self, file: File, config: DataConfig) -> Iterator[tuple[int, int, int]]:  # noqa: ARG002
        """The (start, stop, size) of parts that can be read by themselves: here, the whole file."""
        size = file.stamp[1]
        yield 0, size, size

    @abstractmethod
    def read(self, span: Span, config: DataConfig, tokenizer: Tokenizer, border: int) -> Iterator[Block]:
        """The tokens of a part of a file. A document whose share is below `border` is held out.

        Raises `DataError` where the file cannot be read.
        """

    def tokenize(self, span: Span, config: DataConfig, tokenizer: Tokenizer, border: int) -> Iterator[Block]:
        """Do the same. Raises `DataError` if the file changes in the meantime."""
        yield from self.read(span, config, tokenizer, border)
        if stamp_of(span.file.path) != span.file.stamp:
            raise DataError(
                f"{span.file.path}: the file changed while it was read; run the command again when it is complete"
            )


class Documents(Source):
    """A source of documents, each of which is followed by the tokenizer's separator. Empty ones are left out.

    Without a validation split, a document is held out if the hash of its text, as a share, is below
    `validation_fraction`. So copies of a text are always in the same split, and documents keep their split if files are
    added, divided or put in another order.
    """

    validation = "documents, chosen by a hash of their text (validation_fraction sets the share)"
    kind: ClassVar[Kind]

    def split(self, config: DataConfig, base: Path) -> Split:
        train, validation = find_split(config, base, self.kind)
        for file in (*train, *validation):
            self.check_key(file, config)
        return Split(train, validation, by_document=0.0 if validation else config.validation_fraction)

    @abstractmethod
    def check_key(self, file: File, config: DataConfig) -> None:
        """Raise `DataError` if the file does not have the grid's `text_key`."""

    @abstractmethod
    def documents(self, span: Span, key: str) -> Iterator[tuple[str, float]]:
        """The texts of a part of a file, each with the share of the part that has been read."""

    def read(self, span: Span, config: DataConfig, tokenizer: Tokenizer, border: int) -> Iterator[Block]:
        end = [] if tokenizer.separator is None else [np.array([tokenizer.separator], tokenizer.dtype)]
        for text, done in self.documents(span, key_of(config)):
            if text:
                share = share_of(text.encode("utf-8", "surrogatepass"))
                is_held_out = share < border if span.is_held_out is None else span.is_held_out
                yield Block(np.concatenate([tokenizer.encode(text), *end]), is_held_out, done, share)


def key_of(config: DataConfig) -> str:
    """The key or column with the text."""
    return config.text_key or "text"


def refuse_key(path: Path, problem: str, key: str, names: list[str]) -> DataError:
    """The error about a file without the text's key or column."""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return DataError(f"data.text_key: {path}: {problem} {key!r} (legal: {shown or 'none'})")


def refuse_value(path: Path, place: str, key: str, value: object) -> DataError:
    """The error about a value that is not a text."""
    what = "null" if value is None else f"a value of type {type(value).__name__}"
    return DataError(f"{path}: {place}: its {key!r} is {what}, not text; fix or remove it")
