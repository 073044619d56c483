"""Untrusted archives: unpacked into a folder of their own, in bounded memory, and only the files of listed runs."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ablate.errors import RecordError
from ablate.files import is_reserved, open_regular
from ablate.tracking.code import MAX_CODE_BYTES, is_code_path
from ablate.tracking.evaluations import MAX_RECORD_BYTES, MAX_RESULTS, is_evaluation_path
from ablate.tracking.json_files import parse_json
from ablate.tracking.reruns import RERUNS
from ablate.tracking.study_record import StudyRecord

RECORD = "study.json"
BLOCK_BYTES = 2**20
# An archive may unpack to this multiple of its size plus the room below. Curves compress five times, weights hardly.
MAX_RATIO = 100
SMALL_BYTES = 2**16
OPTIONAL = ("arm.json", "code.diff", "log.txt", RERUNS)  # the first three are of runs of a program
MIN_ROOM_BYTES = 2**26
MAX_STUDY_BYTES = 2**26  # of the record: thousands of arms take a few megabytes
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # it cannot lead out of the folder that it is joined to
# Such a name means nothing special to a file system, and no other file of a study has it.
RUN_ID = re.compile(r"[0-9a-f]{1,64}")


def read_record(archive: Path) -> StudyRecord:
    """Read the record of an archive. Raises `RecordError` if the file is not an archive or the record is unusable."""
    for name, n_bytes, chunks in _entries(archive):
        if name.parts == (RECORD,):
            with _refused(archive):
                _check_size(RECORD, n_bytes, MAX_STUDY_BYTES)
                record = StudyRecord.from_dict(parse_json(b"".join(chunks), RECORD), RECORD)
                _check_record(record)
                return record
    raise RecordError(f"{archive}: not an archive that ablate pack wrote: it holds no {RECORD}")


def unpack(archive: Path, record: StudyRecord, folder: Path, sizes: Mapping[str, int]) -> dict[str, Path]:
    """Write the files of the listed runs below `folder`. Returns the folder of each run that has any.

    `sizes` maps the names of these files to their largest size (bytes). Results of evaluations are unpacked too, and
    so is the user's code, which is never run. Other files are skipped. Raises `RecordError` if the archive is damaged,
    contains a file twice, one that is too large or too many results of one run, or unpacks to far more than its size.
    Raises `OSError` if the disk is full.
    """
    known = {run.run_id for run in record.runs}
    found: dict[str, Path] = {}
    n_records, n_results = 0, Counter[str]()
    for name, n_bytes, chunks in _entries(archive):
        n_records += name.parts == (RECORD,)
        is_result = is_evaluation_path(name) and name.parts[0] in known
        is_listed = is_result or (len(name.parts) == 2 and name.parts[0] in known and name.name in sizes)
        is_code = is_code_path(name)
        target = folder / name if is_listed or is_code else None
        with _refused(archive):
            if n_records > 1 or (target is not None and target.exists()):
                raise RecordError(f"it holds {name} twice")
            if is_result:
                n_results[name.parts[0]] += 1
                if n_results[name.parts[0]] > MAX_RESULTS:
                    raise RecordError(f"the run {name.parts[0]} has more than {MAX_RESULTS} results of evaluations")
            if target is not None:
                limit = MAX_CODE_BYTES if is_code else MAX_RECORD_BYTES if is_result else sizes[name.name]
                _check_size(str(name), n_bytes, limit)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_listed:
                found[name.parts[0]] = folder / name.parts[0]
            with target.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
    return found


def _entries(archive: Path) -> Iterator[tuple[PurePosixPath, int, Iterator[bytes]]]:
    """Yield the name, size and content of every entry.

    The rest of the file is read too, because tarfile stops before the checksum, and takes an unreadable entry for the
    end.
    """
    with _refused(archive), open_regular(archive) as file:
        content = _Unpacked(file, MIN_ROOM_BYTES + MAX_RATIO * archive.stat().st_size)
        with tarfile.open(fileobj=content, mode="r:") as tar:  # type: ignore[call-overload]  # it reads, seeks and tells
            while (entry := tar.next()) is not None:
                tar.members = []  # a million empty entries would fill the memory
                yield PurePosixPath(entry.name), entry.size, _chunks(archive, tar, entry)
        while content.read(BLOCK_BYTES):
            pass


def _chunks(archive: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    with _refused(archive):
        file = tar.extractfile(entry) if entry.isreg() and not entry.issparse() else None
        if file is None:
            raise RecordError(f"{entry.name} is not a plain file in it")
        while chunk := file.read(BLOCK_BYTES):
            yield chunk


class _NoArchiveError(RecordError):
    """The message names the archive already."""


class _Unpacked:
    """The unpacked content of a gzip file, limited to `n_bytes` and to small reads: a header may ask for any size."""

    def __init__(self, file: BinaryIO, n_bytes: int) -> None:
        self._gzip, self._n_bytes = gzip.GzipFile(fileobj=file, mode="rb"), n_bytes
        self.tell = self._gzip.tell

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > BLOCK_BYTES:
            raise RecordError("it holds a header of more than a megabyte")
        self._check(self.tell() + n_bytes)
        return self._gzip.read(n_bytes)

    def seek(self, place: int) -> int:
        self._check(place)
        return self._gzip.seek(place)

    def _check(self, place: int) -> None:
        if place > self._n_bytes + BLOCK_BYTES:
            raise RecordError(f"it unpacks to more than {self._n_bytes} bytes, {MAX_RATIO} times its size")


@contextmanager
def _refused(archive: Path) -> Iterator[None]:
    """Turn every fault of an archive into a `RecordError` of one line that names it."""
    try:
        yield
    except _NoArchiveError:
        raise
    except FileNotFoundError:
        raise _NoArchiveError(f"{archive}: there is no such file") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError, RecordError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise _NoArchiveError(f"{archive}: not an archive that ablate pack wrote: {reason}") from None


def _check_size(name: str, n_bytes: int, limit: int) -> None:
    if n_bytes > limit:
        raise RecordError(f"{name} has more than {limit} bytes")


def _check_record(record: StudyRecord) -> None:
    """Raise `RecordError` if the record has an unsafe name, or cannot be written again."""
    if not FOLDER_NAME.fullmatch(record.study) or is_reserved(record.study):
        raise RecordError(f"{RECORD}: {record.study!a} cannot be a folder's name for a study")
    for run in record.runs:
        if not RUN_ID.fullmatch(run.run_id):
            raise RecordError(f"{RECORD}: {run.run_id!a} cannot be a folder's name for a run (legal: 0-9 and a-f)")
    if not isinstance(record.data.get("hash"), str):
        raise RecordError(f"{RECORD}: data has no hash")
    try:
        json.dumps(record.to_dict(), allow_nan=False)
    except (ValueError, RecursionError):
        raise RecordError(f"{RECORD}: it holds a number that JSON cannot express") from None


def is_packable(path: Path) -> bool:
    """Whether an optional file is there, and is not one repetition: readers refuse an archive that unpacks to far more
    than its size."""
    if path.name not in OPTIONAL or not path.is_file() or path.stat().st_size <= SMALL_BYTES:
        return path.exists()
    content = path.read_bytes()
    return len(content) < MAX_RATIO // 2 * len(zlib.compress(content, 1))
