"""What tasks with questions share: their files, the tokenizer, the two splits, and the length of a sequence."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from ablate.data.files import find_files, find_path
from ablate.data.sources.jsonl import JsonLinesSource
from ablate.data.splits import choose_validation
from ablate.data.tokenizers import Tokenizer, load_tokenizer
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig
from ablate.study.schema import Texts
from ablate.tasks.task import DataInfo, Task
from ablate_model import ConfigError, ModelConfig

EVALUATION_TOKENS = 32768  # at once; fixed, so that no other setting changes a metric

T = TypeVar("T")
E = TypeVar("E")


class Encoded(Protocol):
    """The questions of both splits as tokens."""

    def count_rows(self, length: int) -> int:
        """Rows of the training split, given the length of a sequence."""

    @property
    def sequences_per_row(self) -> int:
        """Sequences of a row."""

    @property
    def n_validation(self) -> int:
        """Questions of the validation split."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""

    @property
    def least(self) -> int:
        """Tokens that a sequence needs at least, because they must not be cut."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def digests(self) -> tuple[str, str]:
        """A hash of each split."""


@dataclass(frozen=True)
class QuestionFiles:
    """Where the questions are, and how they become tokens."""

    path: tuple[str, ...]
    validation_path: tuple[str, ...]
    validation_fraction: float
    tokenizer: str
    tokenizer_path: str | None

    def load_tokenizer(self, base: Path) -> Tokenizer:
        """Load the tokenizer. Raises `DataError`."""
        named = {"tokenizer": self.tokenizer, "tokenizer_path": self.tokenizer_path}
        try:
            return load_tokenizer(DataConfig.model_validate({"source": "text", "path": "-", **named}), base)
        except DataError as error:
            raise DataError(f"task.tokenizer: {str(error).removeprefix('data.tokenizer: ')}") from None

    def read(
        self, base: Path, parse: Callable[[Path], Iterator[T]], key: Callable[[T], str]
    ) -> tuple[list[T], list[T]]:
        """Read both splits. Without validation files, a hash of an item's `key` decides its split.

        Raises `DataError`, naming file and line, for what cannot be read, and where nothing can be held out.
        """

        def read(patterns: Sequence[str], knob: str) -> list[T]:
            files = find_files(patterns, base, f"task.{knob}", JsonLinesSource.kind)
            items = [item for path in files for item in parse(path)]
            if not items:
                raise DataError(f"task.{knob}: there are no questions in it")
            return items

        train = read(self.path, "path")
        if self.validation_path:
            validation = read(self.validation_path, "validation_path")
        else:
            try:
                is_held_out = choose_validation([key(item) for item in train], self.validation_fraction)
            except DataError:
                raise DataError("task.path: all questions have the same text, so none can be held out") from None
            validation = [item for item, is_out in zip(train, is_held_out, strict=True) if is_out]
            train = [item for item, is_out in zip(train, is_held_out, strict=True) if not is_out]
        return train, validation

    def tokenize(
        self,
        base: Path,
        parse: Callable[[Path], Iterator[T]],
        key: Callable[[T], str],
        encode: Callable[[T, Tokenizer], E],
        version: int,
    ) -> tuple[tuple[E, ...], tuple[E, ...], Tokenizer, tuple[str, str]]:
        """Read both splits as `read` does, and encode every item.

        Returns the training and validation items, the tokenizer, and a hash of each split. `version` is that of the
        encoding. Raises `DataError`.
        """
        tokenizer = self.load_tokenizer(base)
        train, validation = self.read(base, parse, key)
        digests = _digest(train, tokenizer, version), _digest(validation, tokenizer, version)
        encoded = (
            tuple(encode(item, tokenizer) for item in train),
            tuple(encode(item, tokenizer) for item in validation),
        )
        return *encoded, tokenizer, digests


def _digest(items: Sequence[Any], tokenizer: Tokenizer, version: int) -> str:
    """Identify a split: its texts and the tokenizer."""
    content = hashlib.sha256(json.dumps([version, tokenizer.identity]).encode())
    for item in items:
        content.update(json.dumps(astuple(item)).encode())
    return content.hexdigest()


class QuestionTask(Task):
    """Questions from JSON Lines for a language model, which usually starts from the weights of another study."""

    rows: ClassVar[str] = "questions"
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    located_knobs: ClassVar[tuple[str, ...]] = ("path", "validation_path", "tokenizer", "tokenizer_path")

    path: Texts = Field(default=(), description="files, globs or folders of JSON Lines (also .gz .bz2 .xz .zst)")
    validation_path: Texts = Field(default=(), description="files of questions that are held out")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share held out without validation_path, chosen by a hash of the text"
    )
    tokenizer: str = Field(
        default="bytes", min_length=1, description="as in `data`; with start_from, the default is the parent's"
    )
    tokenizer_path: str | None = Field(default=None, description="folder with the files of an encoding, as in `data`")
    max_tokens: int | None = Field(
        default=None, ge=8, le=10**7, description="tokens of a sequence; the beginning of a longer one is cut"
    )
    eval_items: int = Field(default=512, ge=1, le=10**7, description="validation questions per evaluation")

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.path:
            raise ConfigError("path", "the questions come from files: name at least one")
        return self

    @property
    def files(self) -> QuestionFiles:
        """The files of the questions."""
        fraction = self.validation_fraction
        return QuestionFiles(self.path, self.validation_path, fraction, self.tokenizer, self.tokenizer_path)

    @abstractmethod
    def encode(self, base: Path) -> Encoded:
        """Read the questions of both splits. Raises `DataError`."""

    def describe(self, base: Path) -> DataInfo:
        found = self.encode(base)
        length = self.length_of(found)
        notices = []
        if length < found.longest:
            text = f"the longest sequence would have {found.longest:,} tokens: it is shortened to {length:,}"
            notices.append(f"{text} (task.max_tokens)")
        return DataInfo(
            hashlib.sha256("".join(found.digests).encode()).hexdigest(),
            hashlib.sha256(f"{found.digests[1]} {self.eval_items} {length}".encode()).hexdigest(),
            found.count_rows(length),
            min(self.eval_items, found.n_validation),
            {"vocab_size": found.tokenizer.vocab_size, "context_length": length},
            tuple(notices),
            tokens_per_row=length * found.sequences_per_row,
        )

    def length_of(self, found: Encoded) -> int:
        """Tokens of a sequence. Raises `DataError` if what must not be cut is longer."""
        length = found.longest if self.max_tokens is None else min(found.longest, self.max_tokens)
        if length < found.least:
            least = f"legal: at least {found.least}"
            raise DataError(f"task.max_tokens: {length} tokens cannot hold the longest answer ({least})")
        return length

    def check_model(self, config: ModelConfig, data: DataInfo) -> None:
        for knob, needed in data.settings.items():
            if (given := getattr(config, knob)) < needed:
                hint = ", or set task.max_tokens" if knob == "context_length" else ""
                raise ConfigError(knob, f"{given} is too small for the questions (legal: at least {needed}{hint})")

    def locate(self, base: Path) -> Self:
        def find(name: str) -> str:
            return str(base.absolute() / name) if (place := find_path(name, base)) is None else str(place)

        changes: dict[str, Any] = {knob: tuple(map(find, getattr(self, knob))) for knob in ("path", "validation_path")}
        for knob in ("tokenizer", "tokenizer_path"):
            value = getattr(self, knob)
            if value not in (None, "bytes", "gpt2") and (place := find_path(value, base)) is not None:
                changes[knob] = str(place)
        return self.model_copy(update=changes)
