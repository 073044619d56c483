"""Things that can be where a run's file should be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

HUGE = b"x" * 2**21


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _put(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        _clear(path)
        make(path)

    return damage


def _forbid(path: Path) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o644)
        pytest.skip("root reads every file")


IN_THE_WAY: dict[str, Callable[[Path], None]] = {
    "folder": _put(Path.mkdir),
    "fifo": _put(os.mkfifo),
    "loop": _put(lambda path: path.symlink_to(path.name)),
    "device": _put(lambda path: path.symlink_to("/dev/zero")),
    "forbidden": _forbid,
}
DAMAGED: dict[str, Callable[[Path], None]] = {
    "missing": _clear,
    "empty": _put(Path.touch),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "rubbish": _put(lambda path: path.write_bytes(b"\xff\x00\xfe{" * 50)),
    "list": _put(lambda path: path.write_bytes(b"[]")),
    "types": _put(lambda path: path.write_bytes(b'{"state": 3, "model": [], "train": "x", "step": {}}\n')),
    "deep": _put(lambda path: path.write_bytes(b"[" * 100_000 + b"\n")),
    "huge": _put(lambda path: path.write_bytes(HUGE)),
}
