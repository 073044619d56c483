"""Divide the files of a corpus into training and validation splits."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate.data.files import decoding_of, digest_of, find_files, find_path, size_of, stamp_of
from ablate.errors import DataError
from ablate.study.schema import DataConfig

_NO_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "sitecustomize.py"}
_GENERATED = ("config-", "_sysconfigdata")
"""Files that the build of an interpreter adds to the library; they contain paths of the machine that built it."""


@dataclass(frozen=True)
class File:
    """A file, the digest of its raw bytes, and its stamp from before it was read."""

    path: Path
    digest: str
    stamp: tuple[int, int, int]


@dataclass(frozen=True)
class Split:
    """The files of each split, in order.

    `tail` is the share of tokens to hold out at the end of a single training file, 0 with several files.
    """

    train: tuple[File, ...]
    validation: tuple[File, ...]
    tail: float = 0.0


def split_files(config: DataConfig, base: Path) -> Split:
    """The splits of a corpus. Relative paths start at the working directory, or else at `base`.

    python-stdlib: files are chosen by a hash of their relative path. text: `validation_path` decides; its files and
    their copies are left out of training. Without it, several files are chosen by a hash of their content, so that two
    copies are always in the same split, and a single file loses its tail. bin: nanoGPT's two files.
    Raises `DataError` where files are missing or unreadable, where a split is empty, and where one text is in both.
    """
    if config.source == "python-stdlib":
        return _split_stdlib(config.validation_fraction)
    if config.source == "bin":
        return _find_bin(config.path[0], base)
    paths = find_files(config.path, base, "data.path")
    kept = find_files(config.validation_path, base, "data.validation_path") if config.validation_path else ()
    _check_archives((*paths, *kept))
    if kept:
        validation = _digest(kept)
        known = {file.digest for file in validation}
        train = tuple(file for file in _digest(paths) if file.digest not in known)
        if not train:
            raise DataError("data.validation_path names every file of data.path: nothing is left to train on")
        return Split(train, validation)
    files = _digest(paths)
    if len(files) == 1:
        return Split(files, (), tail=config.validation_fraction)
    return _part(files, [file.digest for file in files], config.validation_fraction)


def choose_validation(keys: Sequence[str], fraction: float) -> list[bool]:
    """Tell for each of two or more keys if it is in the validation split: its hash, as a share, is below `fraction`.

    A key's split does not depend on the others, so files keep their splits when a corpus grows. Only where a split
    would be empty, the key nearest to the border changes sides. Raises `DataError` where all keys are equal.
    """
    shares = [int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) / 2**64 for key in keys]
    chosen = [share < fraction for share in shares]
    if not any(chosen):
        chosen = [share == min(shares) for share in shares]
    if all(chosen):
        chosen = [share < max(shares) for share in shares]
    if not any(chosen):
        raise DataError("data.path: all files have the same content, so none can be held out for validation")
    return chosen


def _part(files: Sequence[File], keys: Sequence[str], fraction: float) -> Split:
    chosen = choose_validation(keys, fraction)
    train, validation = (
        tuple(file for file, is_chosen in zip(files, chosen, strict=True) if is_chosen is side)
        for side in (False, True)
    )
    return Split(train, validation)


def _split_stdlib(fraction: float) -> Split:
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in _walk_sources(root) if size_of(path))
    if len(names) < 2:
        raise DataError(f"{root}: the standard library of this Python has no source files; use data.source: text")
    return _part(_digest([root / name for name in names]), names, fraction)


def _walk_sources(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = filter(_is_source, subfolders)
        yield from (Path(folder, name) for name in files if name.endswith(".py") and _is_source(name))


def _is_source(name: str) -> bool:
    return name not in _NO_SOURCE and not name.startswith(_GENERATED)


def _find_bin(name: str, base: Path) -> Split:
    folder = find_path(name, base)
    paths = [folder / file for file in ("train.bin", "val.bin")] if folder is not None else []
    if not paths or not all(path.is_file() for path in paths):
        raise DataError(f"data.path: {name} must be a folder with train.bin and val.bin (uint16 tokens)")
    for path in paths:
        if size_of(path) == 0 or size_of(path) % 2:
            raise DataError(f"{path}: {size_of(path)} bytes are not a sequence of uint16 tokens")
    train, validation = _digest(paths)
    if train.digest == validation.digest:
        raise DataError(f"data.path: train.bin and val.bin of {name} contain the same tokens: validate on others")
    return Split((train,), (validation,))


def _check_archives(paths: Sequence[Path]) -> None:
    """Raises `DataError` where a file and its own archive are listed, because one text could be in both splits."""
    for path in paths:
        if decoding_of(path) and path.with_suffix("") in paths:
            raise DataError(f"data.path: {path} and {path.stem} are the same text: name only one of them")


def _digest(paths: Sequence[Path]) -> tuple[File, ...]:
    """The files with their digests, which differ for the same bytes with and without decompression."""
    return tuple(
        File(path, stamp=stamp_of(path), digest=f"{decoding_of(path) or ''}{digest_of(path)}") for path in paths
    )
