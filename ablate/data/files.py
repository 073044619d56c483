"""Finding a user's files, reading them (compressed ones too), and telling their content apart."""

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

    Links that lead to the same file count once. A glob passes over empty files.
    Raises `DataError`, naming the grid's `key`, where a pattern finds no file, or names a folder, a device, an empty
    file, or one that does not hold text.
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
        raise DataError(f"{path}: archives of this kind are not read")
    try:
        with _decompressed(path) as stream:
            check_head(stream)
    except DataError:
        if decoding_of(path) and _is_html(path):
            raise DataError(f"{path}: is an HTML page, not compressed text: download the file again") from None
        raise


def _is_html(path: Path) -> bool:
    """Whether the file is the page that a server sends in place of a file."""
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
            # Of several ways to a file the shortest counts, so a link does not change the order.
            files.sort(key=lambda path: (len(path.parts), path))
            by_file = {(path.stat().st_dev, path.stat().st_ino): path for path in reversed(files)}
            filled = sorted(path for path in by_file.values() if size_of(path))
            if not filled:
                raise DataError(f"{key}: {pattern} names empty files only")
            return filled
    places = " or ".join(str(root) for root in dict.fromkeys(_roots(base)))
    raise DataError(f"{key}: {pattern} names no file in {places}; it would have to be a text file or a glob of some")


def _glob(pattern: Path) -> Iterator[Path]:
    """What a glob matches. `**` enters a folder once, whatever links lead to it, so a circle of links ends."""
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
    """A folder and those below it that are not hidden, the nearest first. Raises `DataError` for an unreadable one."""
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


def stamp_of(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced. Raises `DataError` where the file is not there."""
    with reading(path):
        status = path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns


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
    """The file's bytes, decompressed where its suffix says so.

    Raises `DataError` where it cannot be read or holds something else than text.
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
    """Turns what can go wrong while `path` is read into a `DataError` that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.object[error.start]:#04x}); convert it, or use tokenizer: bytes, which "
            "takes text in any encoding"
        ) from None
    except ContentError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, EOFError, ImportError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except Exception as error:
        # A Python without liblzma has no `lzma.LZMAError` to name above.
        if type(error).__name__ != "LZMAError":
            raise
        raise DataError(f"{path}: cannot be read: {error}") from None
