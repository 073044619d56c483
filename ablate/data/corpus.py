"""From a data section to two memory-mapped arrays of tokens, made once and found again by a hash of their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ablate.data.corpora import Corpus, CorpusInfo, CorpusSequence, SequenceInfo
from ablate.data.gpt2_vocabulary import PADDED_GPT2_VOCABULARY
from ablate.data.phases import hash_sequence
from ablate.data.pieces import Job, Totals, count, cut_corpus, estimate, size_of_pieces
from ablate.data.shards import Means, ShardMaker, cut_tail, locked
from ablate.data.sources import load_source, split_files
from ablate.data.sources.base import Documents, key_of
from ablate.data.splits import SHARES, File, Split
from ablate.data.tokenizer_file import ENDS
from ablate.data.tokenizers import Tokenizer, Tokens, load_tokenizer
from ablate.data.widths import find_fault, read_vocab_size
from ablate.errors import DataError, ResourceError
from ablate.files import file_crc32, open_regular, write_atomic
from ablate.study.data_schema import DataConfig

FORMAT = 1
"""Raise this number when the same files would give other tokens: new separators, new splits, another shard layout."""

BIN_DTYPE = "<u2"
META = "meta.json"
SHARDS = ".shards"  # in the folder of all studies, which every node of a cluster can read
MOST_TOKENS = 1 << 16
SCAN_TOKENS = 1 << 24
CHECKED_TOKENS = 8 * SCAN_TOKENS  # per split, which a plan searches for the largest token
ESTIMATED_ABOVE_BYTES = 64 << 20  # a plan counts the tokens of a smaller corpus
DEFAULT_MEANS = Means()


def describe(config: DataConfig, base: Path, cache: Path | None = None) -> CorpusInfo:
    """Describe the corpus without writing anything. `cache` is the folder of `prepare`: its shards save the counting.

    The numbers of tokens of a large corpus are estimated from a sample unless its shards exist. Relative paths start at
    the working directory, or else at `base`. Raises `DataError` as `prepare` does.
    """
    if config.sequence:
        return _join(config, [describe(phase, base, cache) for phase in config.phases])
    split = split_files(config, base)
    if config.source == "bin":
        return _describe_bin(split)
    tokenizer = load_tokenizer(config, base)
    name = _hash(split, config, tokenizer)
    notices = _find_notices(split, config, tokenizer)
    if cache is not None and (known := find_corpus(cache, name)) is not None:
        return replace(known.info, notices=notices)
    pieces, job = cut_corpus(split, config), _make_job(split, config, base, tokenizer)
    is_large = size_of_pieces(pieces) > ESTIMATED_ABOVE_BYTES
    if is_large:
        totals = estimate(pieces, job, tokenizer, split.by_document)
    else:
        totals = count(pieces, job, tokenizer, by_document=bool(split.by_document))
    n_train, n_validation = totals.n_train, totals.n_validation
    if split.tail:
        n_train, n_validation = cut_tail(n_train, split.tail)
    info = _info(name, n_train, n_validation, tokenizer.vocab_size)
    return replace(info, notices=notices, is_estimate=is_large)


def prepare(config: DataConfig, base: Path, folder: Path, means: Means = DEFAULT_MEANS) -> Corpus:
    """Return the corpus; create its shards `<folder>/<hash>/{train.bin,validation.bin,meta.json}` if necessary.

    An interrupted call is resumed by the next one, with the same result bit for bit. If two processes do so at once,
    the second waits for the first. nanoGPT's files are used in place.
    Raises `DataError` where the files are missing, unreadable, empty or of the wrong kind; `ResourceError` where the
    folder cannot be written or the disk is too small.
    """
    if config.sequence:
        made = tuple(prepare(phase, base, folder, means) for phase in config.phases)
        last, joined = made[-1], _join(config, [corpus.info for corpus in made])
        return CorpusSequence(joined, last.train_path, last.validation_path, last.dtype, made)
    split = split_files(config, base)
    if config.source == "bin":
        return Corpus(_describe_bin(split), split.train[0].path, split.validation[0].path, BIN_DTYPE)
    tokenizer = load_tokenizer(config, base)
    name = _hash(split, config, tokenizer)
    target = folder.absolute() / name
    known = find_corpus(folder.absolute(), name)
    if known is not None:
        return known
    pieces, job = cut_corpus(split, config), _make_job(split, config, base, tokenizer)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, means.observer):
            if (known := find_corpus(folder.absolute(), name)) is not None:
                return known
            (target / META).unlink(missing_ok=True)
            maker = ShardMaker(target, split, pieces, job, tokenizer, means)
            is_large = size_of_pieces(pieces) > ESTIMATED_ABOVE_BYTES
            expected = estimate(pieces, job, tokenizer, split.by_document) if is_large else Totals()
            totals = maker.make(expected.n_train + expected.n_validation)
            try:
                info = _info(name, totals.n_train, totals.n_validation, tokenizer.vocab_size)
            except DataError:
                maker.remove()
                raise
            meta = {**asdict(info), "dtype": tokenizer.dtype.str, "crc32": [*map(_sum, maker.paths)]}
            write_atomic(target / META, (json.dumps(meta, indent=1) + "\n").encode())
            maker.finish()
    except OSError as error:
        place = error.filename or target
        raise ResourceError(f"{place}: the token shards cannot be written: {error.strerror or error}") from None
    return _corpus(target, info, tokenizer.dtype.str)


def check_length(info: CorpusInfo, context_length: int) -> None:
    """Raises `DataError` where a split is too short for one window of `context_length` tokens and their targets."""
    sizes = [("training", part.n_train_tokens) for part in info.parts]
    for name, n_tokens in (*sizes, *(("validation", part.n_validation_tokens) for part in info.parts)):
        if n_tokens <= context_length:
            raise DataError(
                f"the {name} split has {n_tokens} tokens, too few for a context_length of {context_length} "
                f"(legal: at most {n_tokens - 1})"
            )


def check_vocabulary(corpus: Corpus, vocab_size: int) -> None:
    """Raises `DataError` where a token is not below `vocab_size`. Reads all tokens in blocks."""
    splits = [("training", part.train) for part in corpus.parts]
    for name, tokens in (*splits, *(("validation", part.validation) for part in corpus.parts)):
        largest = _find_largest(tokens)
        if largest >= vocab_size:
            raise DataError(
                f"the {name} split contains the token {largest}, beyond a model.vocab_size of {vocab_size} "
                f"(legal: at least {largest + 1})"
            )


def _find_largest(tokens: Tokens) -> int:
    return max(int(tokens[first : first + SCAN_TOKENS].max()) for first in range(0, len(tokens), SCAN_TOKENS))


def _join(config: DataConfig, infos: Sequence[CorpusInfo]) -> SequenceInfo:
    """Describe the corpora of a sequence as one."""
    lengths = tuple(phase.steps for phase in config.sequence)
    notices = [f"corpus {number}: {notice}" for number, info in enumerate(infos, 1) for notice in info.notices]
    return SequenceInfo(
        hash=hash_sequence([info.hash for info in infos], lengths),
        n_train_tokens=sum(info.n_train_tokens for info in infos),
        n_validation_tokens=sum(info.n_validation_tokens for info in infos),
        vocab_size=infos[0].vocab_size,
        is_estimate=any(info.is_estimate for info in infos),
        notices=tuple(notices),
        phases=tuple(infos),
        lengths=lengths,
    )


def _describe_bin(split: Split) -> CorpusInfo:
    paths = split.train[0].path, split.validation[0].path
    train, validation = (np.memmap(path, BIN_DTYPE, mode="r") for path in paths)
    for path, tokens in zip(paths, (train, validation), strict=True):
        if fault := find_fault(tokens):
            raise DataError(f"{path}: this looks like {fault}; source bin reads uint16 tokens as written by nanoGPT")
    largest = max(_find_largest(tokens[:CHECKED_TOKENS]) for tokens in (train, validation))
    stated = read_vocab_size(meta := paths[0].with_name("meta.pkl"))
    if stated is not None and stated > MOST_TOKENS:
        raise DataError(
            f"{meta}: a vocabulary of {stated:,} tokens does not fit in uint16 tokens (legal: {MOST_TOKENS:,})"
        )
    if stated is not None and largest >= stated:
        raise DataError(
            f"{meta}: states a vocabulary of {stated:,}, but train.bin and val.bin contain the token {largest:,}; they "
            "come from another tokenizer, or their tokens are not uint16"
        )
    info = _info(_digest(_content(split, BIN_DTYPE)), len(train), len(validation), PADDED_GPT2_VOCABULARY)
    return replace(info, largest_token=largest, stated_vocab_size=stated)


def _find_notices(split: Split, config: DataConfig, tokenizer: Tokenizer) -> tuple[str, ...]:
    # A user did not choose the files of the standard library.
    notices = split.notices + (_find_copies(split) if config.source != "python-stdlib" else ())
    if tokenizer.separator is None:
        notices += (
            f"the tokenizer {config.tokenizer} has no end-of-text token ({', '.join(ENDS)}), so documents follow each "
            "other without a mark",
        )
    return notices


def _find_copies(split: Split) -> tuple[str, ...]:
    """A remark about files with the same content, whose text is used more than once."""
    files = (*split.train, *split.validation)
    n_copies = len(files) - len({file.digest for file in files})
    if not n_copies:
        return ()
    first: dict[str, File] = {}
    copy, original = next(
        (file, first[file.digest]) for file in files if first.setdefault(file.digest, file) is not file
    )
    return (
        f"{n_copies:,} of the {len(files):,} files of the corpus are copies of another file, so their text counts "
        f"more than once: {copy.path} has the content of {original.path}",
    )


def _info(name: str, n_train: int, n_validation: int, vocab_size: int) -> CorpusInfo:
    for split, n_tokens in (("training", n_train), ("validation", n_validation)):
        if n_tokens == 0:
            raise DataError(f"the {split} split of the corpus is empty")
    return CorpusInfo(name, n_train, n_validation, vocab_size)


def _hash(split: Split, config: DataConfig, tokenizer: Tokenizer) -> str:
    """The identity of the tokens: the content of the files, and everything that decides what tokens they become."""
    content = _content(split, tokenizer.identity)
    if isinstance(load_source(config.source), Documents):
        content |= {"documents": config.source, "text_key": key_of(config), "by_document": split.by_document}
    return _digest(content)


def _content(split: Split, tokenizer: str) -> dict[str, object]:
    return {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "train": [file.digest for file in split.train],
        "validation": [file.digest for file in split.validation],
        "tail": split.tail,
    }


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _make_job(split: Split, config: DataConfig, base: Path, tokenizer: Tokenizer) -> Job:
    return Job(config, base.absolute(), tokenizer.identity, round(split.by_document * SHARES))


def find_corpus(folder: Path, name: str) -> Corpus | None:
    """The corpus with this hash in the folder of `prepare`; None where its shards are missing, incomplete or changed.

    A shard is read only if it was written after its checksum. Those of earlier versions have none.
    """
    try:
        folder = folder / name
        with open_regular(folder / META) as file:
            meta: dict[str, Any] = json.load(file)
            made_ns = os.fstat(file.fileno()).st_mtime_ns
        dtype, sums = meta.pop("dtype"), meta.pop("crc32", [])
        corpus = _corpus(folder, CorpusInfo(**meta), dtype)
        paths = corpus.train_path, corpus.validation_path
        is_whole = corpus.info.hash == name and corpus.is_whole()
        is_same = (
            path.stat().st_mtime_ns < made_ns or _sum(path) == known for path, known in zip(paths, sums, strict=False)
        )
        return corpus if is_whole and all(is_same) else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _sum(path: Path) -> int | None:
    with open_regular(path) as file:
        return file_crc32(file, path.stat().st_size)


def _corpus(folder: Path, info: CorpusInfo, dtype: str) -> Corpus:
    return Corpus(info, folder / "train.bin", folder / "validation.bin", dtype)
