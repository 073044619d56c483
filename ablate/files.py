"""Files that are never half written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write under a temporary name, then rename: whoever reads, or dies while writing, finds or leaves a whole file.

    `durable`: the death of the machine leaves one too, for which the disk has to be waited for. `content` is the bytes,
    or a function that writes them. Raises `OSError` where the disk is full or the folder cannot be written; the old
    file is then still there.
    """
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
