"""Find a user's files, read them (also compressed ones), and identify their content."""

from __future__ import annotations

import glob
import hashlib
import importlib
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ablate.data.content import CheckedStream, ContentError, check_head
from ablate.errors import DataError

ARCHIVES = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
UNREADABLE = frozenset({".zst", ".zip", ".7z", ".lz4", ".br", ".rar", ".tgz", ".tar"})  # not readable as text

SAMPLED_ABOVE_BYTES = 256 << 20
SAMPLES = 256
SAMPLE_BYTES = 1 << 20


def find_path(name: str, base: Path) -> Path | None:
    """The absolute path of a file or folder. Relative names start at the working directory, or else at `base`."""
    path = _expand(name)
    return next((root / path for root in _roots(base) if (root / path).exists()), None)


def find_files(patterns: Iterable[str], base: Path, key: str) -> tuple[Path, ...]:
    """The files that paths and globs match, in the order of the patterns and sorted within each, without duplicates.

    Links to the same file count once. A glob skips empty files.
    Raises `DataError`, naming the grid's `key`, where a pattern matches no file, or a folder, a device, an empty file,
    or a file without text.
    """
    found: dict[tuple[int, int], Path] = {}
    for pattern in patterns:
        for path in _match(pattern, base, key):
            status = path.stat()
            found.setdefault((status.st_dev, status.st_ino), path)
    for path in found.values():
        try:
            _check_text(path)
        except DataError as error:
            raise DataError(
                f"{key}: {error} (legal: plain text, {', '.join(ARCHIVES)}; a narrower glob leaves other files out)"
            ) from None
    return tuple(found.values())


def _check_text(path: Path) -> None:
    if path.suffix.lower() in UNREADABLE:
        raise DataError(f"{path}: archives of this kind are not supported")
    try:
        with _decompressed(path) as stream:
            check_head(stream)
    except DataError:
        if decoding_of(path) and _is_html(path):
            raise DataError(f"{path}: is an HTML page, not compressed text: download the file again") from None
        raise


def _is_html(path: Path) -> bool:
    """Tell if the file is an HTML page that a server sent instead of the file."""
    with reading(path), path.open("rb") as file:
        return file.read(256).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _match(pattern: str, base: Path, key: str) -> list[Path]:
    path = find_path(pattern, base)
    if path is not None:
        if path.is_dir():
            raise DataError(
                f"{key}: {pattern} is a folder; name files, or a glob such as {pattern.rstrip('/')}/**/*.txt"
            )
        if not path.is_file():
            raise DataError(f"{key}: {path} is a device or a pipe; name a file")
        if size_of(path) == 0:
            raise DataError(f"{key}: {path} is empty")
        return [path]
    for root in _roots(base):
        files = [path for path in _glob(Path(glob.escape(str(root))) / _expand(pattern)) if path.is_file()]
        if files:
            # The shortest path to a file counts, so that a link does not change the order.
            files.sort(key=lambda path: (len(path.parts), path))
            by_file = {(path.stat().st_dev, path.stat().st_ino): path for path in reversed(files)}
            filled = sorted(path for path in by_file.values() if size_of(path))
            if not filled:
                raise DataError(f"{key}: {pattern} matches only empty files")
            return filled
    places = " or ".join(str(root) for root in dict.fromkeys(_roots(base)))
    raise DataError(f"{key}: {pattern} matches no file in {places}; name a text file, or a glob of text files")


def _glob(pattern: Path) -> Iterator[Path]:
    """The matches of a glob. `**` enters each folder once, even through links, so circular links are no problem."""
    parts = pattern.parts
    if "**" not in parts:
        yield from map(Path, glob.glob(str(pattern)))  # noqa: PTH207
        return
    place = parts.index("**")
    rest = parts[place + 1 :] or ("*",)
    for top in glob.glob(str(Path(*parts[:place]))):  # noqa: PTH207
        for folder in _walk(Path(top)):
            yield from _glob(Path(glob.escape(str(folder)), *rest))


def _walk(top: Path) -> Iterator[Path]:
    """A folder and its visible subfolders, the nearest first. Raises `DataError` for an unreadable one."""
    known = set()
    folders = deque([top])
    while folders:
        folder = folders.popleft()
        with reading(folder):
            status = folder.stat()
            if not folder.is_dir() or (status.st_dev, status.st_ino) in known:
                continue
            known.add((status.st_dev, status.st_ino))
            yield folder
            folders.extend(sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))


def _expand(name: str) -> Path:
    """Replace `~` and `~user` by the home folder. The name of an unknown user stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _roots(base: Path) -> tuple[Path, Path]:
    return Path.cwd(), base.absolute()


def size_of(path: Path) -> int:
    """The size in bytes. Raises `DataError` where the file does not exist."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Values that change when a file is written or replaced. Raises `DataError` where the file does not exist."""
    with reading(path):
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns


def digest_of(path: Path) -> str:
    """The sha256 of a file's raw bytes. Above 256 MiB, of its size and of 256 evenly spaced blocks of 1 MiB.

    Raises `DataError` where the file cannot be read.
    """
    size = size_of(path)
    with reading(path), path.open("rb") as file:
        if size <= SAMPLED_ABOVE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for i in range(SAMPLES):
            file.seek(i * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()


def decoding_of(path: Path) -> str | None:
    """The module that decompresses the file, by its suffix, or None for plain bytes."""
    return ARCHIVES.get(path.suffix.lower())


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed according to its suffix.

    Raises `DataError` where it cannot be read or does not contain text.
    """
    with _decompressed(path) as stream:
        yield cast("IO[bytes]", CheckedStream(stream))


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with reading(path):
        module = decoding_of(path)
        with importlib.import_module(module).open(path) if module else path.open("rb") as stream:
            yield stream


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors while reading `path` into a `DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.object[error.start]:#04x}); convert it, or use tokenizer: bytes, which "
            "accepts any encoding"
        ) from None
    except ContentError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, EOFError, ImportError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except Exception as error:
        # Python may lack liblzma, so `lzma.LZMAError` cannot be named above.
        if type(error).__name__ != "LZMAError":
            raise
        raise DataError(f"{path}: cannot be read: {error}") from None
