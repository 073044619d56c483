"""A data section to two memory-mapped arrays of tokens, made once and found again by the hash of what they hold."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.files import open_file, size_of
from ablate.data.splits import File, Split, split_files
from ablate.data.tokenizers import PADDED_GPT2_VOCABULARY, Tokenizer, Tokens, load_tokenizer
from ablate.errors import DataError, ResourceError
from ablate.study.schema import DataConfig

FORMAT = 1
"""Raise it when the same files would become other tokens: separators, splits, or the layout of the shards."""

BIN_DTYPE = "<u2"
SCAN_TOKENS = 1 << 24
WIDEST_UPPER_HALF = 4  # of tokens of four bytes, with a vocabulary of 262,144
BYTES = 256  # a vocabulary that small may well have a separator at every other place
CHECKED_TOKENS = 8 * SCAN_TOKENS  # of each split, in which a plan looks for the largest token, to stay quick


@dataclass(frozen=True)
class CorpusInfo:
    """`hash` stands for the tokens of both splits, wherever their files are; the counts are of each split.

    `largest_token` is known where the corpus came as tokens: that of the first `CHECKED_TOKENS` of each split.
    """

    hash: str
    n_train_tokens: int
    n_validation_tokens: int
    vocab_size: int
    largest_token: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Where the tokens are. Holds paths only, so it travels between processes; each access maps the file anew."""

    info: CorpusInfo
    train_path: Path
    validation_path: Path
    dtype: str

    @property
    def train(self) -> Tokens:
        """Memory-mapped: [n_train_tokens]. Raises `DataError` where the file is gone or changed its size."""
        return self._map(self.train_path, self.info.n_train_tokens)

    @property
    def validation(self) -> Tokens:
        """Memory-mapped: [n_validation_tokens]. Raises `DataError` as `train` does."""
        return self._map(self.validation_path, self.info.n_validation_tokens)

    def is_whole(self) -> bool:
        """Whether both files are there with the sizes that the counts ask for."""
        width = np.dtype(self.dtype).itemsize
        sizes = ((self.train_path, self.info.n_train_tokens), (self.validation_path, self.info.n_validation_tokens))
        return all(path.is_file() and path.stat().st_size == n * width for path, n in sizes)

    def _map(self, path: Path, n_tokens: int) -> Tokens:
        expected = n_tokens * np.dtype(self.dtype).itemsize
        if size_of(path) != expected:
            raise DataError(f"{path}: {size_of(path)} bytes where {expected} were prepared; it changed since")
        return np.memmap(path, dtype=self.dtype, mode="r")


def describe(config: DataConfig, base: Path, cache: Path | None = None) -> CorpusInfo:
    """What the corpus is, writing nothing. `cache` is a folder that `prepare` may have filled: it saves the counting.

    Relative paths count from the working directory, else from `base`. Raises `DataError` as `prepare` does.
    """
    split = split_files(config, base)
    if config.source == "bin":
        return _describe_bin(split)
    tokenizer = load_tokenizer(config, base)
    name = _hash(split, tokenizer.identity)
    if cache is not None and (known := _find_shards(cache / name, name)) is not None:
        return known.info
    n_train, n_validation = (
        sum(len(block) for block in _tokenize(files, tokenizer)) for files in (split.train, split.validation)
    )
    if split.tail:
        n_train, n_validation = _cut_tail(n_train, split.tail)
    return _info(name, n_train, n_validation, tokenizer.vocab_size)


def prepare(config: DataConfig, base: Path, folder: Path) -> Corpus:
    """The corpus with its shards `<folder>/<hash>/{train.bin,validation.bin,meta.json}`, made where they are not there.

    Two processes may do so at once: each file is written under a temporary name and renamed, `meta.json` last, and both
    write the same. nanoGPT's files are used in place.
    Raises `DataError` where the files are missing, unreadable, empty or of the wrong kind; `ResourceError` where the
    folder cannot be written.
    """
    split = split_files(config, base)
    if config.source == "bin":
        return Corpus(_describe_bin(split), split.train[0].path, split.validation[0].path, BIN_DTYPE)
    tokenizer = load_tokenizer(config, base)
    name = _hash(split, tokenizer.identity)
    target = folder.absolute() / name
    known = _find_shards(target, name)
    return known if known is not None else _make_shards(target, name, split, tokenizer)


def check_length(info: CorpusInfo, context_length: int) -> None:
    """Raises `DataError` where a split has no window of `context_length` tokens and the token after each."""
    for name, n_tokens in (("training", info.n_train_tokens), ("validation", info.n_validation_tokens)):
        if n_tokens <= context_length:
            raise DataError(
                f"the {name} split has {n_tokens} tokens, too few for a context_length of {context_length} "
                f"(legal: at most {n_tokens - 1})"
            )


def check_vocabulary(corpus: Corpus, vocab_size: int) -> None:
    """Raises `DataError` where a token is not below `vocab_size`. Looks at every token, a block at a time."""
    for name, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        largest = _find_largest(tokens)
        if largest >= vocab_size:
            raise DataError(
                f"the {name} split holds the token {largest}, beyond a model.vocab_size of {vocab_size} "
                f"(legal: at least {largest + 1})"
            )


def _find_largest(tokens: Tokens) -> int:
    return max(int(tokens[first : first + SCAN_TOKENS].max()) for first in range(0, len(tokens), SCAN_TOKENS))


def _describe_bin(split: Split) -> CorpusInfo:
    train, validation = (np.memmap(file.path, BIN_DTYPE, mode="r") for (file,) in (split.train, split.validation))
    _check_width(split.train[0].path, train)
    info = _info(_hash(split, BIN_DTYPE), len(train), len(validation), PADDED_GPT2_VOCABULARY)
    return replace(info, largest_token=max(_find_largest(tokens[:CHECKED_TOKENS]) for tokens in (train, validation)))


def _check_width(path: Path, tokens: Tokens) -> None:
    """Raises `DataError` for tokens of four bytes, of which every other two are the upper half: next to nothing."""
    lower, upper = tokens[: SCAN_TOKENS - 1 : 2], tokens[1:SCAN_TOKENS:2]
    if len(upper) and upper.max() < WIDEST_UPPER_HALF <= BYTES <= lower.max():
        raise DataError(f"{path}: this looks like uint32 tokens; source bin reads uint16, as nanoGPT writes them")


def _info(name: str, n_train: int, n_validation: int, vocab_size: int) -> CorpusInfo:
    for split, n_tokens in (("training", n_train), ("validation", n_validation)):
        if n_tokens == 0:
            raise DataError(f"the {split} split of the corpus is empty")
    return CorpusInfo(name, n_train, n_validation, vocab_size)


def _hash(split: Split, tokenizer: str) -> str:
    content = {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "train": [file.digest for file in split.train],
        "validation": [file.digest for file in split.validation],
        "tail": split.tail,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tokenize(files: Sequence[File], tokenizer: Tokenizer) -> Iterator[Tokens]:
    """The tokens of the files, with the tokenizer's separator between two of them, in blocks."""
    for i, file in enumerate(files):
        if i:
            yield np.array([tokenizer.separator], dtype=tokenizer.dtype)
        with open_file(file.path) as stream:
            yield from tokenizer.encode_stream(stream)


def _cut_tail(n_tokens: int, share: float) -> tuple[int, int]:
    n_validation = int(n_tokens * share)
    return n_tokens - n_validation, n_validation


def _find_shards(folder: Path, name: str) -> Corpus | None:
    """The shards in a folder, or None where they are not there, torn, or of another size than their meta says."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_bytes())
        dtype = meta.pop("dtype")
        corpus = _corpus(folder, CorpusInfo(**meta), dtype)
        return corpus if corpus.info.hash == name and corpus.is_whole() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _corpus(folder: Path, info: CorpusInfo, dtype: str) -> Corpus:
    return Corpus(info, folder / "train.bin", folder / "validation.bin", dtype)


def _make_shards(target: Path, name: str, split: Split, tokenizer: Tokenizer) -> Corpus:
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".making-") as temporary:
            train, validation, meta = (Path(temporary) / file for file in ("train.bin", "validation.bin", "meta.json"))
            n_train = _write_tokens(train, split.train, tokenizer)
            n_validation = _write_tokens(validation, split.validation, tokenizer)
            if split.tail:
                n_train, n_validation = _cut_tail(n_train, split.tail)
                _move_tail(train, validation, n_train * tokenizer.dtype.itemsize)
            info = _info(name, n_train, n_validation, tokenizer.vocab_size)
            meta.write_text(json.dumps({**asdict(info), "dtype": tokenizer.dtype.str}, indent=1) + "\n")
            for file in (train, validation, meta):
                file.replace(target / file.name)
    except OSError as error:
        raise ResourceError(f"{target}: the token shards cannot be written: {error.strerror or error}") from None
    return _corpus(target, info, tokenizer.dtype.str)


def _write_tokens(path: Path, files: Sequence[File], tokenizer: Tokenizer) -> int:
    n_tokens = 0
    with path.open("wb") as out:
        for block in _tokenize(files, tokenizer):
            out.write(block.tobytes())
            n_tokens += len(block)
    return n_tokens


def _move_tail(source: Path, target: Path, keep_bytes: int) -> None:
    with source.open("r+b") as file:
        file.seek(keep_bytes)
        with target.open("wb") as out:
            while block := file.read(1 << 20):
                out.write(block)
        file.truncate(keep_bytes)
