"""Safe reading and writing of files: never half written, and never anything but a regular file.

People copy, mount and edit folders of runs, so anything can be where a file should be: a folder, a FIFO that blocks
when it is opened, a device, a loop of links. Everything that ablate reads or writes by name goes through this module.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Literal, TypeVar

from ablate.formatting import quote

BLOCK_BYTES = 2**18
STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAME_RULE = "a study's name has up to 100 letters, digits, '.', '_' and '-', and starts with a letter or a digit"
# ablate keeps these beside the studies: MLflow's database (mlflow.db, mlflow.db-wal), its files, campaigns, and pages
# that compare studies. The name of a study cannot start with a dot, so hidden files need no rule.
_RESERVED = re.compile(r"mlflow\..*|mlartifacts|comparison|campaigns", re.IGNORECASE)

_TOGETHER = 16  # names that a thread reads at a time
_WAITS = 4.0  # times the processor time that reading takes on a slow disk; a busy machine stays below

T = TypeVar("T")

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def study_name_problem(name: object) -> str:
    """Why this cannot be the name of a study, with the legal form. Empty if it can."""
    if not isinstance(name, str) or not re.fullmatch(STUDY_NAME[1:-1], name):
        return f"{NAME_RULE}, got {quote(name)}"
    if is_reserved(name):
        return (
            f"{name!r} is reserved: MLflow's files, comparisons and campaigns are kept beside the studies; {NAME_RULE}"
        )
    return ""


def is_reserved(name: str) -> bool:
    """True if ablate itself uses this name in the folder of all studies."""
    return _RESERVED.fullmatch(name) is not None


def check_regular(path: Path) -> None:
    """Raise `OSError`, with the reason, if something other than a regular file is at `path`.

    Links are followed. A missing file is fine.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "this is a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"this is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file", str(path))


def open_regular(path: Path, mode: Literal["rb", "ab", "a+b"] = "rb") -> BinaryIO:
    """Open a regular file, unbuffered for writing.

    Raises `OSError` like `check_regular`, before it opens anything, because opening a FIFO waits for its other end.
    """
    check_regular(path)
    return open(path, mode, buffering=-1 if mode == "rb" else 0, opener=_open_quickly)


def _open_quickly(name: str, flags: int) -> int:
    """Do not block if the file has just become a FIFO. This changes nothing for a regular file."""
    return os.open(name, flags | os.O_NONBLOCK, 0o666)


def make_folder(path: Path) -> None:
    """Make a folder and its parents. Raises `OSError` if something else is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(errno.ENOTDIR, "this is not a folder", error.filename) from None


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write under a temporary name, then rename, so that readers never see half a file, even if this process dies.

    `content` is the bytes, or a function that writes them. With `durable`, the call waits for the disk, so the file
    also survives a crash of the machine. Raises `OSError` if the disk is full, the folder is not writable, or something
    other than a file is at `path`. `path` is unchanged after an error.
    """
    with _replacing(path) as temporary, temporary.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def fill_atomic(path: Path, fill: Callable[[Path], object]) -> None:
    """Do the same with a function that writes to the temporary name itself. The call waits for the disk."""
    with _replacing(path) as temporary:
        fill(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name. In the end its file takes the place of `path`, unless there was an error."""
    check_regular(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a read-only disk refuses this too, and the first error says more
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary name
            del error.filename2
        raise


def file_crc32(file: IO[bytes], n_bytes: int) -> int | None:
    """Compute the CRC-32 of the first `n_bytes`; None if the file is shorter."""
    file.seek(0)
    crc32 = 0
    while n_bytes > 0 and (block := file.read(min(n_bytes, BLOCK_BYTES))):
        crc32, n_bytes = zlib.crc32(block, crc32), n_bytes - len(block)
    return None if n_bytes else crc32


def read_all(read: Callable[[str], T], names: Sequence[str], computes_long: Callable[[Sequence[T]], bool]) -> list[T]:
    """Read the named things in order, in threads if that helps.

    It helps if reading waits for a slow disk, as the first few of them show, or if it `computes_long` without the
    interpreter's lock, judged by the same ones. Otherwise threads only wait for that lock, which doubles the time.
    """
    began, used = time.perf_counter(), time.thread_time()
    found = [read(name) for name in names[:_TOGETHER]]
    took_s, used_s = time.perf_counter() - began, time.thread_time() - used
    rest = [names[start : start + _TOGETHER] for start in range(_TOGETHER, len(names), _TOGETHER)]
    n_cores = os.cpu_count() or 1
    n_threads = 4 * n_cores if took_s > _WAITS * used_s else n_cores if computes_long(found) else 1
    with ThreadPoolExecutor(n_threads) as pool:
        for some in pool.map(lambda group: [read(name) for name in group], rest):
            found += some
    return found
