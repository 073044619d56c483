"""A corpus as two arrays of tokens, or several corpora one after another: their sizes, and their files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ablate.data.files import size_of
from ablate.data.phases import Lengths
from ablate.data.tokenizers import Tokens
from ablate.errors import DataError


@dataclass(frozen=True)
class CorpusInfo:
    """The size of a corpus. `hash` identifies the tokens of both splits, wherever their files are.

    If the corpus came as tokens, `largest_token` is the largest of the first `CHECKED_TOKENS` of each split, and
    `stated_vocab_size` comes from the meta.pkl beside them, if there is one. With `is_estimate`, the numbers of
    tokens were estimated from a sample. `notices` are remarks for the plan.
    """

    hash: str
    n_train_tokens: int
    n_validation_tokens: int
    vocab_size: int
    largest_token: int | None = None
    stated_vocab_size: int | None = None
    is_estimate: bool = False
    notices: tuple[str, ...] = field(default=(), compare=False)

    @property
    def parts(self) -> tuple[CorpusInfo, ...]:
        """The corpora of a sequence, or this one."""
        return (self,)


@dataclass(frozen=True)
class SequenceInfo(CorpusInfo):
    """Several corpora, one after another. The numbers of tokens are those of all; `lengths` are the steps of each."""

    phases: tuple[CorpusInfo, ...] = ()
    lengths: Lengths = ()

    @property
    def parts(self) -> tuple[CorpusInfo, ...]:
        return self.phases


@dataclass(frozen=True)
class Corpus:
    """The files of the tokens. It holds only paths, so it can be sent to other processes; each access maps the file."""

    info: CorpusInfo
    train_path: Path
    validation_path: Path
    dtype: str

    @property
    def parts(self) -> tuple[Corpus, ...]:
        """The corpora of a sequence, or this one."""
        return (self,)

    @property
    def train(self) -> Tokens:
        """Memory-mapped: [n_train_tokens]. Raises `DataError` where the file is missing or its size changed."""
        return self._map(self.train_path, self.info.n_train_tokens)

    @property
    def validation(self) -> Tokens:
        """Memory-mapped: [n_validation_tokens]. Raises `DataError` as `train` does."""
        return self._map(self.validation_path, self.info.n_validation_tokens)

    def is_whole(self) -> bool:
        """Tell if both files exist with the sizes that match the counts."""
        width = np.dtype(self.dtype).itemsize
        sizes = ((self.train_path, self.info.n_train_tokens), (self.validation_path, self.info.n_validation_tokens))
        return all(path.is_file() and path.stat().st_size == n * width for path, n in sizes)

    def _map(self, path: Path, n_tokens: int) -> Tokens:
        expected = n_tokens * np.dtype(self.dtype).itemsize
        if size_of(path) != expected:
            raise DataError(f"{path}: {size_of(path)} bytes where {expected} were prepared; the file has changed")
        return np.memmap(path, dtype=self.dtype, mode="r")


@dataclass(frozen=True)
class CorpusSequence(Corpus):
    """Several corpora, one after another. The files are those of the last one, on which runs end."""

    phases: tuple[Corpus, ...] = ()

    @property
    def parts(self) -> tuple[Corpus, ...]:
        return self.phases

    @property
    def lengths(self) -> Lengths:
        """The steps of each phase, where they are given."""
        assert isinstance(self.info, SequenceInfo)
        return self.info.lengths

    def _map(self, path: Path, n_tokens: int) -> Tokens:  # noqa: ARG002 - the whole sequence has more
        last = self.phases[-1]
        return last.train if path == last.train_path else last.validation

    def is_whole(self) -> bool:
        return all(corpus.is_whole() for corpus in self.phases)
