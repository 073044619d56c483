"""Files on their way between the driver's machine and nodes that do not see the study's folder.

The driver's folder is the truth. The courier is an actor on the driver's node. It holds the leases of the runs that
such nodes train, and writes what they send; `node_files.py` is the other end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablate.files import make_folder, open_regular
from ablate.tracking.curve import BusyError, CurveWriter
from ablate.tracking.folders import StudyFolder

Sign = tuple[str, int, int]
"""A file: its path relative to a folder, its size in bytes, and when it was changed, in ns."""


def has_content(path: Path, content: str) -> bool:
    """Tell whether this process sees a file with this content, which is not empty."""
    try:
        return bool(content) and path.read_text() == content
    except OSError:
        return False


@dataclass
class _Lease:
    owner: str
    curve: CurveWriter
    is_new: bool = True  # the writer does not know yet how long the curve is


class Courier:
    """Reads files for nodes, and writes those of the runs that they train.

    Each attempt at a run has an `owner`, a random name. Once a run is closed or opened by another attempt, nothing from
    its earlier owners is accepted, so a node that was believed dead can no longer write. Every call may be repeated,
    because Ray repeats the calls in progress if it has to restart the actor.
    """

    def __init__(self, study: Path, token: str) -> None:
        self.store, self._token = StudyFolder(study), study / token
        self._leases: dict[str, _Lease] = {}
        self._fenced: set[str] = set()  # former owners
        self._addresses: dict[str, str] = {}
        self._lock = threading.Lock()

    def token(self) -> tuple[Path, str]:
        """A file in the study's folder, and its content as this process sees it; empty if it sees none."""
        try:
            return self._token, self._token.read_text()
        except OSError:
            return self._token, ""

    def meet(self, meeting: str, address: str = "") -> str:
        """The address at which the processes of a group meet, which its first one gives; empty until then."""
        if address:
            self._addresses[meeting] = address
        return self._addresses.get(meeting, "")

    def list_files(self, path: Path, names: Iterable[str] | None = None) -> list[Sign]:
        """The file at `path`, under the name ".", or the files in the folder there: all, or those with these `names`.

        The list is empty if nothing is there.
        """
        if path.is_file():
            return [_sign(path, path)]
        if names is not None:
            return [_sign(path / name, path) for name in names if (path / name).is_file()]
        found = (Path(folder) / name for folder, _, files in os.walk(path) for name in files)
        return sorted(_sign(file, path) for file in found if file.is_file())

    def read(self, path: Path, offset: int, n_bytes: int) -> bytes:
        """At most `n_bytes` of a file. Raises `OSError` if it cannot be read."""
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(n_bytes)

    def open(self, run_id: str, owner: str) -> list[Sign]:
        """Take the lease of a run, and list its files, but not the hidden ones, which are on their way.

        Raises `BusyError` if another driver's worker has the lease.
        """
        folder = self.store.run(run_id).path
        make_folder(folder)
        with self._lock:
            self._close(run_id)
            self._leases[run_id] = _Lease(owner, CurveWriter(self.store.run(run_id).curve))
        return [sign for sign in self.list_files(folder) if not Path(sign[0]).name.startswith(".")]

    def write_curve(self, run_id: str, owner: str, offset: int, crc32: int, block: bytes) -> bool:
        """Cut the curve back to `offset` bytes, and append a block. Returns False, and changes nothing, if the bytes
        before have another checksum."""
        lease = self._find(run_id, owner)
        curve = lease.curve
        is_at_end = not lease.is_new and (curve.n_bytes, curve.crc32) == (offset, crc32)
        if not is_at_end and not curve.rewind(offset, crc32):
            return False
        lease.is_new = False
        curve.write(block)
        return True

    def write(self, run_id: str, owner: str, name: str, offset: int, block: bytes, *, is_last: bool) -> None:
        """Write a block of a file. Readers see the whole file once its last block is on the disk."""
        curve = self._find(run_id, owner).curve
        path = self.store.run(run_id).path / name
        make_folder(path.parent)
        part = path.with_name(f".{path.name}.sent")
        if is_last and offset and not part.exists() and path.stat().st_size == offset + len(block):
            return  # this is the repetition of a call that came through
        with part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(block)
            file.flush()
            if is_last:
                os.fsync(file.fileno())
        if is_last:
            curve.sync()  # a checkpoint or a final status is useless without the curve before it
            part.replace(path)

    def remove(self, run_id: str, owner: str, name: str) -> None:
        self._find(run_id, owner)
        (self.store.run(run_id).path / name).unlink(missing_ok=True)

    def close(self, run_id: str, owner: str | None = None) -> None:
        """Release the lease of a run; with an `owner`, only if that is the one that has it."""
        with self._lock:
            lease = self._leases.get(run_id)
            if lease is not None and owner in (None, lease.owner):
                self._close(run_id)

    def _close(self, run_id: str) -> None:
        lease = self._leases.pop(run_id, None)
        if lease is not None:
            self._fenced.add(lease.owner)
            lease.curve.close()

    def _find(self, run_id: str, owner: str) -> _Lease:
        """The lease of a run. A courier that Ray restarted takes it again."""
        with self._lock:
            lease = self._leases.get(run_id)
            if owner in self._fenced or (lease is not None and lease.owner != owner):
                raise BusyError(f"{run_id} was given to another worker")
            if lease is None:
                lease = self._leases[run_id] = _Lease(owner, CurveWriter(self.store.run(run_id).curve))
            return lease


def _sign(file: Path, folder: Path) -> Sign:
    stat = file.stat()
    return str(file.relative_to(folder)), stat.st_size, stat.st_mtime_ns
