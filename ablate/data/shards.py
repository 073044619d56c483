"""Make the token shards of a corpus: in parallel, within little memory, and so that it can be interrupted anywhere.

Processes write the tokens of pieces into parts. This process appends the parts to the shards in the order of the corpus
and keeps a journal. After an interruption, the shards are cut to the lengths in the journal and the rest is made.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ablate.data.memory import choose_processes
from ablate.data.pieces import Job, Part, Piece, Totals, layout_of, size_of_pieces
from ablate.data.pool import write_parts
from ablate.data.splits import Split
from ablate.data.tokenizers import Tokenizer
from ablate.errors import DataError, ResourceError
from ablate.files import write_atomic
from ablate.formatting import format_count

AHEAD = 4  # parts per process that may wait for an earlier one
SPARE_BYTES = 64 << 20
COPY_BYTES = 1 << 20


class Observer(Protocol):
    """Observes the progress of `prepare`."""

    def wait(self, folder: Path) -> None:
        """Another process makes the same shards; this one waits for it."""

    def start(self, n_bytes: int, n_done: int, expected_bytes: int, free_bytes: int, processes: int) -> None:
        """Tokenizing starts: the size of the corpus, how much was done before, and the size of the shards."""

    def advance(self, n_bytes: int) -> None:
        """`n_bytes` more bytes of the corpus have been read."""


class Silent:
    """An observer that shows nothing."""

    def wait(self, folder: Path) -> None: ...

    def start(self, n_bytes: int, n_done: int, expected_bytes: int, free_bytes: int, processes: int) -> None: ...

    def advance(self, n_bytes: int) -> None: ...


SILENT = Silent()
NOTHING = Totals()


@dataclass(frozen=True)
class Means:
    """How shards are made, which does not change them. `max_memory` is for all processes together, in bytes."""

    processes: int | None = None
    max_memory: int | None = None
    observer: Observer = SILENT


@dataclass(frozen=True)
class _Journal:
    """How far the shards are: `cursor` pieces are in them. A journal of another `layout` or `border` does not count."""

    layout: str
    border: int
    cursor: int = 0
    totals: Totals = NOTHING
    is_tail_moved: bool = False

    def write(self, path: Path, *, durable: bool) -> None:
        write_atomic(path, json.dumps(asdict(self)).encode(), durable=durable)

    @classmethod
    def read(cls, path: Path) -> _Journal | None:
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            return cls(**{**found, "totals": Totals(**found["totals"])})
        except (OSError, ValueError, TypeError, LookupError):
            return None


class ShardMaker:
    """Makes train.bin and validation.bin in a folder. The caller holds the folder's lock (see `locked`)."""

    def __init__(
        self, folder: Path, split: Split, pieces: list[Piece], job: Job, tokenizer: Tokenizer, means: Means
    ) -> None:
        self.folder, self.split, self.pieces, self.job, self.tokenizer = folder, split, pieces, job, tokenizer
        self.means, self.parts, self.journal_path = means, folder / "parts", folder / "journal.json"
        self.paths = folder / "train.bin", folder / "validation.bin"
        self.width = tokenizer.dtype.itemsize
        self.is_durable = len(pieces) > 1
        self.layout = layout_of(pieces)

    def make(self, expected_tokens: int) -> Totals:
        """Make the shards, or the rest of them. Returns their totals; `finish` removes the traces.

        Raises `DataError` if the corpus cannot be read, after which nothing is kept, and `ResourceError` if the disk is
        too small or a process dies.
        """
        journal = _Journal.read(self.journal_path)
        if journal is None or journal.layout != self.layout or not self._is_kept(journal):
            self.remove()
            journal = _Journal(self.layout, self.job.border)
        self._start(journal, expected_tokens)
        try:
            journal = self._append_all(journal)
            while self.split.by_document and (border := journal.totals.find_border()) is not None:
                self.remove()
                journal = self._append_all(_Journal(self.layout, border))
        except DataError:
            self.remove()
            raise
        if self.split.tail and not journal.is_tail_moved:
            journal = self._move_tail(journal)
        self._cut(journal)
        return journal.totals

    def finish(self) -> None:
        """Remove everything but the shards."""
        self.journal_path.unlink(missing_ok=True)
        shutil.rmtree(self.parts, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything that was made."""
        self.finish()
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _start(self, journal: _Journal, expected_tokens: int) -> None:
        n_bytes, n_done = size_of_pieces(self.pieces), size_of_pieces(self.pieces[: journal.cursor])
        expected = expected_tokens * self.width
        free = shutil.disk_usage(self.folder).free
        needed = expected - sum(self._lengths(journal)) + SPARE_BYTES
        if expected_tokens and needed > free:
            raise ResourceError(
                f"{self.folder}: the token shards need about {format_count(needed)}B, but the disk has only "
                f"{format_count(free)}B free"
            )
        self.processes = choose_processes(
            self.means.processes, self.means.max_memory, len(self.pieces) - journal.cursor, n_bytes - n_done
        )
        self.means.observer.start(n_bytes, n_done, expected, free, self.processes)

    def _append_all(self, journal: _Journal) -> _Journal:
        """Tokenize the pieces from the cursor on, and append them in their order."""
        self.parts.mkdir(exist_ok=True)
        for stale in self.parts.glob("*.[0-9]*"):  # what a process that died left unfinished
            stale.unlink(missing_ok=True)
        self._cut(journal)
        found = {i for i in range(journal.cursor, len(self.pieces)) if self._part(i).read(self.width) is not None}
        missing = [i for i in range(journal.cursor, len(self.pieces)) if i not in found]
        for i in found:
            self.means.observer.advance(size_of_pieces([self.pieces[i]]))
        job = replace(self.job, border=journal.border)
        limit = AHEAD * self.processes
        written = write_parts(
            self.pieces,
            missing,
            self.parts,
            job,
            self.tokenizer,
            self.processes,
            lambda index: index < journal.cursor + limit,
            self.means.observer.advance,
        )
        with closing(written):  # ends the processes also after an error
            while journal.cursor < len(self.pieces):
                if journal.cursor in found:
                    journal = self._append(journal)
                else:
                    found.add(next(written))
        return journal

    def _append(self, journal: _Journal) -> _Journal:
        part = self._part(journal.cursor)
        totals = part.read(self.width)
        if totals is None:
            raise ResourceError(f"{part.folder}: files vanished or changed; run the command again")
        for source, target in zip((part.train, part.validation), self.paths, strict=True):
            with source.open("rb") as file, target.open("ab") as out:
                shutil.copyfileobj(file, out, COPY_BYTES)
                if self.is_durable:
                    out.flush()
                    os.fsync(out.fileno())
        journal = replace(journal, cursor=journal.cursor + 1, totals=journal.totals + totals)
        journal.write(self.journal_path, durable=self.is_durable)
        part.remove()
        return journal

    def _move_tail(self, journal: _Journal) -> _Journal:
        """Copy the end of the training tokens to the validation tokens. `_cut` then removes it from the first."""
        n_train, n_validation = cut_tail(journal.totals.n_train, self.split.tail)
        with self.paths[0].open("rb") as file, self.paths[1].open("wb") as out:
            file.seek(n_train * self.width)
            shutil.copyfileobj(file, out, COPY_BYTES)
            out.flush()
            os.fsync(out.fileno())
        totals = replace(journal.totals, n_train=n_train, n_validation=n_validation)
        journal = replace(journal, totals=totals, is_tail_moved=True)
        journal.write(self.journal_path, durable=self.is_durable)
        return journal

    def _cut(self, journal: _Journal) -> None:
        """Cut the shards to the lengths in the journal."""
        for path, length in zip(self.paths, self._lengths(journal), strict=True):
            with path.open("ab") as file:
                file.truncate(length)

    def _part(self, index: int) -> Part:
        return Part(self.parts, index)

    def _lengths(self, journal: _Journal) -> tuple[int, int]:
        return journal.totals.n_train * self.width, journal.totals.n_validation * self.width

    def _is_kept(self, journal: _Journal) -> bool:
        """Tell if the shards are at least as long as the journal says."""
        sizes = (path.stat().st_size if path.exists() else 0 for path in self.paths)
        return all(size >= length for size, length in zip(sizes, self._lengths(journal), strict=True))


def cut_tail(n_tokens: int, share: float) -> tuple[int, int]:
    """The numbers of training and validation tokens if the last share of one file is held out."""
    n_validation = int(n_tokens * share)
    return n_tokens - n_validation, n_validation


@contextmanager
def locked(folder: Path, observer: Observer) -> Iterator[None]:
    """Hold the folder's lock, after waiting for another process that does. The lock ends with its process.

    The file is removed at the end, so one that was removed while this process waited for it does not count.
    """
    path = folder / ".lock"
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                observer.wait(folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file.fileno()):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
