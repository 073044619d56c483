"""Processes that tokenize the pieces of a corpus. They end by themselves if the process that started them dies."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic

from ablate.data.pieces import Advance, Job, Part, Piece
from ablate.data.tokenizers import Tokenizer
from ablate.errors import DataError, ResourceError

TOLD_S = 0.5  # between two messages about progress

_Message = tuple[str, str | int]


def write_parts(
    pieces: Sequence[Piece],
    indices: Sequence[int],
    folder: Path,
    job: Job,
    tokenizer: Tokenizer,
    processes: int,
    may_start: Callable[[int], bool],
    advance: Advance,
) -> Generator[int]:
    """Write the parts of the pieces `indices` in about this order, and yield each index when it is complete.

    A piece starts once `may_start` says so, which must hold for the first that is not complete. A single process is
    this one. Raises the `DataError` of a piece, and `ResourceError` if a process dies.
    """
    if processes == 1:
        for index in indices:
            Part(folder, index).write(pieces[index], job, tokenizer, advance, _sign())
            yield index
        return
    with _Pool(job, folder, processes) as pool:
        waiting = list(reversed(indices))
        while waiting or pool.is_busy:
            while waiting and pool.has_idle and may_start(waiting[-1]):
                index = waiting.pop()
                pool.start(index, pieces[index])
            for kind, value in pool.receive():
                if kind == "done":
                    yield int(value)
                else:
                    advance(int(value))


class _Pool:
    def __init__(self, job: Job, folder: Path, processes: int) -> None:
        context = get_context("spawn")  # threads of this process make a fork unsafe
        self._processes = []
        self._at_work: dict[Connection, int] = {}
        self._idle: list[Connection] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, job, folder), daemon=True)
            process.start()
            theirs.close()  # otherwise the end of the process would not close the connection
            self._processes.append(process)
            self._idle.append(ours)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (*self._idle, *self._at_work):
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    @property
    def is_busy(self) -> bool:
        return bool(self._at_work)

    def start(self, index: int, piece: Piece) -> None:
        connection = self._idle.pop()
        self._at_work[connection] = index
        with suppress(OSError):  # if it has died, `receive` says so
            connection.send((index, piece))

    def receive(self) -> Iterator[_Message]:
        """The next messages: ("read", bytes) or ("done", index)."""
        for ready in wait(list(self._at_work)):
            connection = next(known for known in self._at_work if known is ready)
            try:
                kind, value = connection.recv()
            except (EOFError, OSError):
                raise ResourceError(
                    "a process that tokenizes ended unexpectedly, perhaps because memory ran out; the same command "
                    "resumes; to use fewer processes, set --processes or --max-memory"
                ) from None
            if kind == "wrong":
                raise DataError(value)
            if kind == "failed":
                raise RuntimeError(f"a process that tokenizes failed:\n{value}")
            if kind == "lacking":
                raise ResourceError(value)
            if kind == "done":
                del self._at_work[connection]
                self._idle.append(connection)
            yield kind, value


def _work(connection: Connection, job: Job, folder: Path) -> None:
    """Write parts until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    try:
        tokenizer = job.load_tokenizer()
        while True:
            index, piece = connection.recv()
            told = _Teller(connection)
            Part(folder, index).write(piece, job, tokenizer, told.advance, _sign())
            told.send()
            connection.send(("done", index))
    except (EOFError, ConnectionError):
        return
    except DataError as error:
        message = "wrong", str(error)
    except OSError as error:
        message = "lacking", f"{folder}: cannot be written: {error.strerror or error}"
    except BaseException:  # noqa: BLE001 - the other process raises it again
        message = "failed", traceback.format_exc()
    with suppress(OSError):
        connection.send(message)


class _Teller:
    """Sends progress, but not too often."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._untold, self._last = connection, 0, monotonic()

    def advance(self, n_bytes: int) -> None:
        self._untold += n_bytes
        if monotonic() - self._last > TOLD_S:
            self.send()

    def send(self) -> None:
        self._connection.send(("read", self._untold))
        self._untold, self._last = 0, monotonic()


def _sign() -> str:
    return f".{os.getpid()}"
