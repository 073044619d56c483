"""Files that are never half written, and never anything but files.

A folder of runs is copied, mounted and edited by hand, so anything can stand where a file should: a folder, a FIFO that
blocks whoever opens it, a device, a loop of links. Everything that ablate reads or writes by name goes through here.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from ablate.formatting import quote

STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAME_RULE = "a study's name is letters, digits, '.', '_' and '-', starts with a letter or a digit, and has at most 100"
# What ablate keeps beside the studies: MLflow's database (mlflow.db, mlflow.db-wal) and files, and pages that compare
# studies. Hidden files cannot be studies' names anyway.
_RESERVED = re.compile(r"mlflow\..*|mlartifacts|comparison", re.IGNORECASE)

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def study_name_problem(name: object) -> str:
    """Why this cannot be the name of a study, with the legal form; empty where it can."""
    if not isinstance(name, str) or not re.fullmatch(STUDY_NAME[1:-1], name):
        return f"{NAME_RULE}, got {quote(name)}"
    if is_reserved(name):
        return f"{name!r} is kept for MLflow's files or for comparisons, which stand beside the studies; {NAME_RULE}"
    return ""


def is_reserved(name: str) -> bool:
    """Whether ablate itself keeps something by this name in the folder of all studies."""
    return _RESERVED.fullmatch(name) is not None


def check_regular(path: Path) -> None:
    """Raise `OSError`, with the reason, where something other than a regular file stands at `path`.

    A link counts as what it leads to; nothing at all is fine.
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
    """Open a regular file, unbuffered where it is written.

    Raises `OSError` as `check_regular`, before anything else is opened: opening a FIFO waits for its other end.
    """
    check_regular(path)
    return open(path, mode, buffering=-1 if mode == "rb" else 0, opener=_open_quickly)


def _open_quickly(name: str, flags: int) -> int:
    """In case it has become a FIFO meanwhile; this changes nothing for a file."""
    return os.open(name, flags | os.O_NONBLOCK, 0o666)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises `OSError` where something else stands there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(errno.ENOTDIR, "this is not a folder", error.filename) from None


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write under a temporary name, then rename, so that readers, and a process that dies meanwhile, see a whole file.

    `durable`: the file also survives the death of the machine, which means waiting for the disk. `content` is the
    bytes, or a function that writes them. Raises `OSError` where the disk is full, the folder cannot be written, or
    something other than a file stands at `path`; whatever stood there is then still there.
    """
    check_regular(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a disk that is read-only refuses this too, and the first error tells more
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that people know
            del error.filename2
        raise
