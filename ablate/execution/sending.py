"""Sends what a run writes on a node without the study's folder to the courier on the driver's node."""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from ablate.execution.cluster import cause_of
from ablate.files import file_crc32, open_regular
from ablate.tracking.folders import RunFolder
from ablate.tracking.study_record import ENDED

BLOCK_BYTES = 2**23
LOOK_S = 1.0  # between looks for new files
SHARE = 0.1  # of the time, at most, in which checkpoints are on their way
SMALL_BYTES = 2**16  # a file of this size is sent at every change

Signature = tuple[int, int, int]  # of a file here: size, time of change and inode


class Sending:
    """Sends what is new in the folder of a run, every second and at the end.

    Every look sends the curve, then the other files, and the status last, so at the driver nothing is called finished
    before it is complete. A checkpoint is sent if those before it took at most a tenth of the time, and at the end.
    """

    def __init__(self, courier: Any, folder: RunFolder, owner: str) -> None:
        self.courier, self.folder, self.owner = courier, folder, owner
        self.error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_often, daemon=True)
        self._curve = _measure(folder.curve)
        self._sent, self._seen = self._look(), self._look()
        self._resumes_at = 0.0  # of sending checkpoints

    def __enter__(self) -> Sending:
        self._thread.start()
        return self

    def __exit__(self, _kind: object, raised: BaseException | None, _trace: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.error is None:
            self._send(is_last=True)
        elif raised is None:
            raise self.error

    def _send_often(self) -> None:
        try:
            while not self._ended.wait(LOOK_S):
                self._send()
        except Exception as error:  # noqa: BLE001 - the thread of the run raises it
            self.error = error

    def _send(self, *, is_last: bool = False) -> None:
        checkpoint, status = self.folder.checkpoint.name, self.folder.status.name
        status_sign = self._look_at(self.folder.status)
        status_bytes = self.folder.status.read_bytes() if status_sign is not None else b""
        files = self._look()  # after the status, so that it has what the status promises
        new = {name: sign for name, sign in files.items() if sign != self._sent.get(name)}
        if checkpoint in new and (is_last or time.monotonic() >= self._resumes_at):
            began = time.monotonic()
            self._send_file(checkpoint, new[checkpoint])
            self._resumes_at = time.monotonic() + (time.monotonic() - began) / SHARE
        self._send_curve()
        for name, sign in new.items():
            is_settled = is_last or sign == self._seen.get(name) or sign[0] <= SMALL_BYTES
            if is_settled and name not in (self.folder.curve.name, checkpoint, status):
                self._send_file(name, sign)
        self._seen = files
        may_end = is_last or not status_bytes or json.loads(status_bytes)["state"] not in ENDED
        if status_sign is not None and status_sign != self._sent.get(status) and may_end:
            self._call("write", status, 0, status_bytes, is_last=True)
            self._sent[status] = status_sign
        if is_last:
            for name in self._sent.keys() - files.keys():
                self._call("remove", name)

    def _send_curve(self) -> None:
        try:
            with open_regular(self.folder.curve) as file:
                n_bytes, crc32 = self._curve
                if file_crc32(file, n_bytes) != crc32:  # it was cut back
                    n_bytes, crc32 = 0, 0
                file.seek(n_bytes)
                block = file.read()
        except FileNotFoundError:
            return
        block = block[: block.rfind(b"\n") + 1]
        if (block or (n_bytes, crc32) != self._curve) and not self._call("write_curve", n_bytes, crc32, block):
            self._curve = (0, 0)
            self._send_curve()
            return
        self._curve = n_bytes + len(block), zlib.crc32(block, crc32)

    def _send_file(self, name: str, sign: Signature) -> None:
        """Send a file, and before it the curve: a checkpoint needs the lines that were written before it."""
        with suppress(FileNotFoundError), (self.folder.path / name).open("rb") as file:
            self._send_curve()
            offset, is_last = 0, False
            while not is_last:
                block = file.read(BLOCK_BYTES)
                is_last = len(block) < BLOCK_BYTES
                self._call("write", name, offset, block, is_last=is_last)
                offset += len(block)
            self._sent[name] = sign

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        call = getattr(self.courier, method)
        return get(call.remote(self.folder.path.name, self.owner, *arguments, **options))

    def _look(self) -> dict[str, Signature]:
        """The visible files in the folder, by relative path."""
        paths = (Path(folder) / name for folder, _, names in os.walk(self.folder.path) for name in names)
        found = {str(path.relative_to(self.folder.path)): self._look_at(path) for path in paths if path.name[0] != "."}
        return {name: sign for name, sign in found.items() if sign is not None}

    def _look_at(self, path: Path) -> Signature | None:
        with suppress(OSError):
            stat = path.stat()
            return stat.st_size, stat.st_mtime_ns, stat.st_ino
        return None


def get(answer: Any) -> Any:
    """What the courier answers. Raises its error as it was, not as Ray's."""
    try:
        return ray.get(answer)
    except RayTaskError as error:
        raise cause_of(error) from None


def _measure(curve: Path) -> tuple[int, int]:
    """The length and the checksum of a curve."""
    if not curve.exists():
        return 0, 0
    with open_regular(curve) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        return n_bytes, file_crc32(file, n_bytes) or 0
