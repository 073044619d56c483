"""Finding a user's files, reading them (compressed ones too), and telling their content apart."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ablate.errors import DataError

ARCHIVES = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
UNREADABLE = frozenset({".zst", ".zip", ".7z", ".lz4", ".br", ".rar", ".tgz", ".tar"})  # as text they would be noise

SAMPLED_ABOVE_BYTES = 256 << 20
SAMPLES = 256
SAMPLE_BYTES = 1 << 20


def find_path(name: str, base: Path) -> Path | None:
    """The absolute path of a file or folder: relative names count from the working directory, else from `base`."""
    path = _expand(name)
    return next((root / path for root in _roots(base) if (root / path).exists()), None)


def find_files(patterns: Iterable[str], base: Path, key: str) -> tuple[Path, ...]:
    """The files that paths and globs name: in the order of the patterns, sorted within each, none twice.

    Raises `DataError`, naming the grid's `key`, where a pattern finds no file, or names a folder or an empty file.
    """
    found = [path for pattern in patterns for path in _match(pattern, base, key)]
    for path in found:
        if size_of(path) == 0:
            raise DataError(f"{key}: {path} is empty")
        if path.suffix.lower() in UNREADABLE:
            raise DataError(
                f"{key}: {path}: archives of this kind are not read (legal: {', '.join(ARCHIVES)}, or plain text)"
            )
    return tuple(dict.fromkeys(found))


def _match(pattern: str, base: Path, key: str) -> list[Path]:
    path = find_path(pattern, base)
    if path is not None and path.is_dir():
        raise DataError(f"{key}: {pattern} is a folder; name files, or a glob such as {pattern.rstrip('/')}/**/*.txt")
    if path is not None:
        return [Path(os.path.normpath(path))]
    for root in _roots(base):
        names = glob.glob(str(Path(glob.escape(str(root))) / _expand(pattern)), recursive=True)  # noqa: PTH207
        files = sorted(Path(os.path.normpath(name)) for name in names if Path(name).is_file())
        if files:
            return files
    places = " or ".join(str(root) for root in dict.fromkeys(_roots(base)))
    raise DataError(f"{key}: {pattern} names no file in {places}; it would have to be a text file or a glob of some")


def _expand(name: str) -> Path:
    """`~` and `~user` as the home they stand for; a user that does not exist is part of the name."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _roots(base: Path) -> tuple[Path, Path]:
    return Path.cwd(), base.absolute()


def size_of(path: Path) -> int:
    """Bytes. Raises `DataError` where the file is not there."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def digest_of(path: Path) -> str:
    """sha256 of a file's raw bytes; above 256 MiB of its size and of 256 evenly spaced blocks of 1 MiB, to stay cheap.

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
    """The module that decompresses the file, by its suffix; None for plain bytes."""
    return ARCHIVES.get(path.suffix.lower())


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed where its suffix says so. Raises `DataError` where it cannot be read."""
    with reading(path):
        if module := decoding_of(path):
            stream: IO[bytes] = importlib.import_module(module).open(path)
        else:
            stream = path.open("rb")
        with stream:
            yield stream


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what can go wrong while `path` is read into a `DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.object[error.start]:#04x}); tokenizer: bytes takes any file"
        ) from None
    except (OSError, EOFError, ImportError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except Exception as error:
        # A Python without liblzma has no `lzma.LZMAError` to name above.
        if type(error).__name__ != "LZMAError":
            raise
        raise DataError(f"{path}: cannot be read: {error}") from None
