"""How many processes tokenize, within the memory that they may use together."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from ablate.errors import ResourceError
from ablate.formatting import format_count

SMALL_BYTES = 32 << 20
"""A corpus below this size is tokenized by one process, because starting others would take longer."""

BUFFER_BYTES = 96 << 20
"""The memory that tokenizing adds to a process: buffers, a batch of documents, and their tokens."""


def choose_processes(asked: int | None, max_memory: int | None, n_pieces: int, n_bytes: int) -> int:
    """The number of processes: as asked, or one per core, and no more than there are pieces or than memory allows.

    A process needs what this one has now, with its tokenizer loaded, and buffers. Only 1 means that this process does
    the work itself. Raises `ResourceError` if `max_memory` is too small for that.
    """
    per_process = memory_in_use() + BUFFER_BYTES
    if max_memory is not None and max_memory < per_process:
        raise ResourceError(
            f"--max-memory: {format_count(max_memory)}B is too little: this process needs about "
            f"{format_count(per_process)}B with its tokenizer (legal: at least that)"
        )
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = asked if asked is not None else 1 if n_bytes < SMALL_BYTES else usable
    chosen = min(chosen, max(n_pieces, 1))
    if max_memory is not None:
        chosen = min(chosen, max_memory // per_process - 1)  # this process only appends what the others write
    return max(chosen, 1)


def memory_in_use() -> int:
    """The resident memory of this process in bytes, or its peak where only that is known."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
