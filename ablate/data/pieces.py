"""Cut a corpus into pieces, and count, estimate or write the tokens of each. A piece depends on no other piece."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from ablate.data.sources import base, load_source
from ablate.data.sources.base import Block, Span
from ablate.data.splits import SHARES, Split
from ablate.data.tokenizers import Tokenizer, load_tokenizer
from ablate.errors import DataError
from ablate.files import write_atomic
from ablate.study.data_schema import DataConfig

SAMPLED_PIECES = 8
SAMPLE_BYTES = 1 << 18  # of a piece
WRITTEN_BYTES = 1 << 20

Piece = tuple[Span, ...]
Advance = Callable[[int], object]  # told how many more bytes of the corpus have been read


@dataclass(frozen=True)
class Job:
    """Turns text into tokens. `identity` is the tokenizer's, and documents below `border` are held out."""

    config: DataConfig
    base: Path
    identity: str
    border: int

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer, in another process. Raises `DataError` if its files have changed."""
        tokenizer = load_tokenizer(self.config, self.base)
        if tokenizer.identity != self.identity:
            raise DataError("data.tokenizer: its files changed while the corpus was tokenized; run the command again")
        return tokenizer


@dataclass(frozen=True)
class Totals:
    """The tokens and documents of each split, and the lowest and the highest share of a document (see `share_of`)."""

    n_train: int = 0
    n_validation: int = 0
    n_train_documents: int = 0
    n_validation_documents: int = 0
    lowest: int = SHARES
    highest: int = -1

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.n_train + other.n_train,
            self.n_validation + other.n_validation,
            self.n_train_documents + other.n_train_documents,
            self.n_validation_documents + other.n_validation_documents,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    @classmethod
    def of(cls, block: Block) -> Self:
        n, is_document = len(block.tokens), block.share is not None
        share = {} if block.share is None else {"lowest": block.share, "highest": block.share}
        if block.is_held_out:
            return cls(n_validation=n, n_validation_documents=int(is_document), **share)
        return cls(n_train=n, n_train_documents=int(is_document), **share)

    def find_border(self) -> int | None:
        """The border that gives both splits a document, if the one in use does not. None if it does.

        The document nearest to the border changes sides. Raises `DataError` if all documents have the same text.
        """
        if self.highest < 0 or (self.n_train_documents and self.n_validation_documents):
            return None
        if self.lowest == self.highest:
            raise DataError(
                "data.path: the corpus is a single document, or copies of it, so nothing can be held out; set "
                "data.validation_path"
            )
        return self.highest if self.n_validation_documents else self.lowest + 1


def cut_corpus(split: Split, config: DataConfig) -> list[Piece]:
    """The pieces of a corpus in the order of their tokens."""
    source = load_source(config.source)
    train_side = None if split.by_document else False
    pieces: list[Piece] = []
    for files, is_held_out in ((split.train, train_side), (split.validation, True)):
        spans: list[Span] = []
        for i, file in enumerate(files):
            for start, stop, size in source.cut(file, config):
                spans.append(Span(file, start, stop, size, is_held_out, is_next=i > 0 and start == 0))
                if sum(span.size for span in spans) >= base.PIECE_BYTES:
                    pieces.append(tuple(spans))
                    spans = []
        if spans:
            pieces.append(tuple(spans))
    return pieces


def size_of_pieces(pieces: Sequence[Piece]) -> int:
    return sum(span.size for piece in pieces for span in piece)


def layout_of(pieces: Sequence[Piece]) -> str:
    """A digest of how a corpus is cut."""
    parts = [(s.file.digest, s.start, s.stop, s.is_held_out, s.is_next) for piece in pieces for s in piece]
    return hashlib.sha256(json.dumps([[len(piece) for piece in pieces], parts]).encode()).hexdigest()


def tokenize(piece: Piece, job: Job, tokenizer: Tokenizer, advance: Advance) -> Iterator[Block]:
    """The tokens of a piece. Raises `DataError` where a file cannot be read."""
    source = load_source(job.config.source)
    for span in piece:
        told = 0
        for block in source.tokenize(span, job.config, tokenizer, job.border):
            yield block
            done = int(min(block.done, 1.0) * span.size)
            advance(done - told)
            told = done
        advance(span.size - told)


def count(pieces: Sequence[Piece], job: Job, tokenizer: Tokenizer, *, by_document: bool) -> Totals:
    """Tokenize everything, and keep nothing."""
    totals = Totals()
    for piece in pieces:
        for block in tokenize(piece, job, tokenizer, lambda _: None):
            totals += Totals.of(block)
    border = totals.find_border() if by_document else None
    if border is None:
        return totals
    return count(pieces, replace(job, border=border), tokenizer, by_document=False)


def estimate(pieces: Sequence[Piece], job: Job, tokenizer: Tokenizer, by_document: float) -> Totals:
    """Tokenize the beginning of some pieces, and infer the number of tokens of all."""
    step = max(len(pieces) / SAMPLED_PIECES, 1)
    chosen = [pieces[int(i * step)] for i in range(min(SAMPLED_PIECES, len(pieces)))]
    n_tokens, n_bytes = 0, 0.0
    source = load_source(job.config.source)
    for span in (piece[0] for piece in chosen):
        done = 0.0
        for block in source.read(span, job.config, tokenizer, job.border):
            n_tokens += len(block.tokens)
            done = min(block.done, 1.0)
            if done * span.size >= SAMPLE_BYTES:
                break
        n_bytes += done * span.size
    per_byte = n_tokens / n_bytes if n_bytes else 0.0
    held_out = size_of_pieces([piece for piece in pieces if piece[0].is_held_out])
    n_validation = int(held_out * per_byte)
    n_train = int((size_of_pieces(pieces) - held_out) * per_byte)
    if by_document:
        n_train, n_validation = n_train - int(n_train * by_document), int(n_train * by_document)
    return Totals(n_train, n_validation)


@dataclass(frozen=True)
class Part:
    """The files of a piece's tokens, and of their number, which is written last."""

    folder: Path
    index: int

    @property
    def train(self) -> Path:
        return self.folder / f"{self.index:08d}.train"

    @property
    def validation(self) -> Path:
        return self.folder / f"{self.index:08d}.validation"

    @property
    def totals(self) -> Path:
        return self.folder / f"{self.index:08d}.json"

    def write(self, piece: Piece, job: Job, tokenizer: Tokenizer, advance: Advance, sign: str) -> None:
        """Write the tokens of a piece, under names that end in `sign` until they are complete."""
        totals = Totals()
        paths = [path.with_name(path.name + sign) for path in (self.train, self.validation)]
        with paths[0].open("wb", WRITTEN_BYTES) as train, paths[1].open("wb", WRITTEN_BYTES) as validation:
            for block in tokenize(piece, job, tokenizer, advance):
                (validation if block.is_held_out else train).write(block.tokens.tobytes())
                totals += Totals.of(block)
        for path, final in zip(paths, (self.train, self.validation), strict=True):
            path.replace(final)
        write_atomic(self.totals, json.dumps(asdict(totals)).encode(), durable=False)

    def read(self, width: int) -> Totals | None:
        """The totals of a piece whose files are complete, or None."""
        try:
            found: dict[str, Any] = json.loads(self.totals.read_bytes())
            totals = Totals(**found)
            sizes = (self.train.stat().st_size, self.validation.stat().st_size)
        except (OSError, ValueError, TypeError):
            return None
        return totals if sizes == (totals.n_train * width, totals.n_validation * width) else None

    def remove(self) -> None:
        for path in (self.totals, self.train, self.validation):
            path.unlink(missing_ok=True)
