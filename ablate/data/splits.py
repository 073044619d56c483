"""Divide a corpus into training and validation splits, by file or by document."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate.data.files import Kind, decoding_of, digest_of, find_files, stamp_of
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

SHARES = 1 << 64


@dataclass(frozen=True)
class File:
    """A file, the digest of its raw bytes, and its stamp from before it was read."""

    path: Path
    digest: str
    stamp: tuple[int, int, int]


@dataclass(frozen=True)
class Split:
    """The files of each split, in order.

    `tail` is the share of tokens to hold out at the end of a single training file, and `by_document` is the share of
    documents to hold out from the training files. Both are 0 if whole files are held out. `notices` are remarks for the
    plan.
    """

    train: tuple[File, ...]
    validation: tuple[File, ...]
    tail: float = 0.0
    by_document: float = 0.0
    notices: tuple[str, ...] = ()


def find_split(config: DataConfig, base: Path, kind: Kind) -> tuple[tuple[File, ...], tuple[File, ...]]:
    """The files of `path` and of `validation_path`, which and whose copies are left out of training.

    Raises `DataError` where files are missing or unreadable, where nothing is left, and where one text is in both.
    """
    paths = find_files(config.path, base, "data.path", kind)
    held_out = config.validation_path
    kept = find_files(held_out, base, "data.validation_path", kind) if held_out else ()
    _check_archives((*paths, *kept))
    return leave_out(digest(paths), digest(kept))


def leave_out(files: tuple[File, ...], validation: tuple[File, ...]) -> tuple[tuple[File, ...], tuple[File, ...]]:
    """The files without those of the validation split and their copies. Raises `DataError` where nothing is left."""
    known = {file.digest for file in validation}
    train = tuple(file for file in files if file.digest not in known)
    if not train:
        raise DataError("data.validation_path names every file of data.path: nothing is left to train on")
    return train, validation


def share_of(key: bytes) -> int:
    """The place of a key in the order that decides what is held out: below `SHARES`, evenly distributed."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big")


def choose_validation(keys: Sequence[str], fraction: float) -> list[bool]:
    """Tell for each of two or more keys if it is in the validation split: its hash, as a share, is below `fraction`.

    A key's split does not depend on the others, so files keep their splits when a corpus grows. Only where a split
    would be empty, the key nearest to the border changes sides. Raises `DataError` where all keys are equal.
    """
    shares = [share_of(key.encode()) / SHARES for key in keys]
    chosen = [share < fraction for share in shares]
    if not any(chosen):
        chosen = [share == min(shares) for share in shares]
    if all(chosen):
        chosen = [share < max(shares) for share in shares]
    if not any(chosen):
        raise DataError("data.path: all files have the same content, so none can be held out for validation")
    return chosen


def part(files: Sequence[File], keys: Sequence[str], fraction: float) -> Split:
    """A split of whole files, chosen by their keys."""
    chosen = choose_validation(keys, fraction)
    train, validation = (
        tuple(file for file, is_chosen in zip(files, chosen, strict=True) if is_chosen is side)
        for side in (False, True)
    )
    return Split(train, validation)


def _check_archives(paths: Sequence[Path]) -> None:
    """Raises `DataError` where a file and its own archive are listed, because one text could be in both splits."""
    for path in paths:
        if decoding_of(path) and path.with_suffix("") in paths:
            raise DataError(f"data.path: {path} and {path.stem} are the same text: name only one of them")


def digest(paths: Sequence[Path]) -> tuple[File, ...]:
    """The files with their digests, which differ for the same bytes with and without decompression."""
    return tuple(
        File(path, stamp=stamp_of(path), digest=f"{decoding_of(path) or ''}{digest_of(path)}") for path in paths
    )
