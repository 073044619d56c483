"""Find a user's files, read them (also compressed ones), and identify their content."""

from __future__ import annotations

import glob
import hashlib
import importlib
import io
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ablate.data.content import CheckedStream, ContentError, check_head
from ablate.errors import DataError

ARCHIVES = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "zstd"}
UNREADABLE = frozenset({".zip", ".7z", ".lz4", ".br", ".rar", ".tgz", ".tar"})  # not readable as text

_ZSTD_BUFFER = 1 << 20

SAMPLED_ABOVE_BYTES = 256 << 20
SAMPLES = 256
SAMPLE_BYTES = 1 << 20


def find_path(name: str, base: Path) -> Path | None:
    """The absolute path of a file or folder. Relative names start at the working directory, or else at `base`."""
    path = _expand(name)
    return next((root / path for root in _roots(base) if (root / path).exists()), None)


@dataclass(frozen=True)
class Kind:
    """The files that a source reads: their name, the endings that it takes from a folder, and a check of one file.

    Without endings, a folder is refused. `check` raises `DataError` for a file of another kind.
    """

    name: str
    check: Callable[[Path], None]
    endings: tuple[str, ...] = ()


def find_files(patterns: Iterable[str], base: Path, key: str, kind: Kind) -> tuple[Path, ...]:
    """The files that paths, globs and folders match, in the order of the patterns, without duplicates.

    The files of one pattern are sorted. Links to the same file count once. A glob skips empty files.
    Raises `DataError`, naming the grid's `key`, where a pattern matches no file, or a device, an empty file, or a file
    of another kind.
    """
    found: dict[tuple[int, int], Path] = {}
    for pattern in patterns:
        for path in _match(pattern, base, key, kind):
            status = path.stat()
            found.setdefault((status.st_dev, status.st_ino), path)
    for path in found.values():
        try:
            kind.check(path)
        except DataError as error:
            if str(error).startswith("data."):
                raise
            raise DataError(f"{key}: {error} (legal: {kind.name}; a narrower glob leaves other files out)") from None
    return tuple(found.values())


def check_text(path: Path) -> None:
    """Raise `DataError` where a file does not contain plain text."""
    check_suffix(path)
    try:
        with decompressed(path) as (stream, _):
            check_head(stream)
    except DataError:
        if decoding_of(path) and _is_html(path):
            raise DataError(f"{path}: is an HTML page, not compressed text: download the file again") from None
        raise


TEXT = Kind(f"plain text, {', '.join(ARCHIVES)}", check_text)


def check_suffix(path: Path) -> None:
    """Raise `DataError` for an archive that cannot be read."""
    if path.suffix.lower() in UNREADABLE:
        raise DataError(f"{path}: archives of this kind are not supported")


def _is_html(path: Path) -> bool:
    """Tell if the file is an HTML page that a server sent instead of the file."""
    with reading(path), path.open("rb") as file:
        return file.read(256).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _match(pattern: str, base: Path, key: str, kind: Kind) -> list[Path]:
    path = find_path(pattern, base)
    if path is not None:
        if path.is_dir() and kind.endings:
            inside = [file for folder in _walk(path) for file in folder.glob("[!.]*") if file.is_file()]
            files = _one_path_each(file for file in inside if file.name.lower().endswith(kind.endings))
            if not files:
                raise DataError(f"{key}: {pattern} is a folder without files named *{', *'.join(kind.endings)}")
            return files
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
            filled = _one_path_each(files)
            if not filled:
                raise DataError(f"{key}: {pattern} matches only empty files")
            return filled
    places = " or ".join(str(root) for root in dict.fromkeys(_roots(base)))
    what = "text file" if not kind.endings else f"{kind.endings[0]} file"
    raise DataError(f"{key}: {pattern} matches no file in {places}; name a {what}, or a glob of {what}s")


def _one_path_each(paths: Iterable[Path]) -> list[Path]:
    """The files that are not empty, sorted. The shortest path to a file counts, so links do not change the order."""
    nearest_last = sorted(paths, key=lambda path: (len(path.parts), path), reverse=True)
    by_file = {(path.stat().st_dev, path.stat().st_ino): path for path in nearest_last}
    return sorted(path for path in by_file.values() if size_of(path))


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
def open_file(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """Open a text file for reading bytes, decompressed according to its suffix, and a function that tells how many
    bytes of the file itself were read.

    Raises `DataError` where it cannot be read or does not contain text.
    """
    with decompressed(path) as (stream, position):
        yield cast("IO[bytes]", CheckedStream(stream)), position


@contextmanager
def decompressed(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """The same for a file of any content."""
    with reading(path), path.open("rb") as raw:
        module = decoding_of(path)
        if module == "zstd":
            import pyarrow

            unpacked = cast("io.RawIOBase", pyarrow.CompressedInputStream(raw, module))
            with io.BufferedReader(unpacked, _ZSTD_BUFFER) as stream:
                yield stream, raw.tell
        elif module:
            with importlib.import_module(module).open(raw) as stream:
                yield stream, raw.tell
        else:
            yield raw, raw.tell


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
        # Python may lack liblzma, and pyarrow is slow to import, so their errors cannot be named above.
        if type(error).__name__ != "LZMAError" and type(error).__module__ != "pyarrow.lib":
            raise
        raise DataError(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}") from None
