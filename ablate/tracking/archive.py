"""`ablate pack` and `ablate merge`: a study trained in parts on machines that share nothing."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ablate.errors import RecordError
from ablate.files import write_atomic
from ablate.tracking.curve import BusyError, CurveWriter, is_held
from ablate.tracking.records import ENDED, Status, StudyRecord
from ablate.tracking.store import RunFolder, Store, parse_json

STATUS = "status.json"
CONTENT = ("config.json", "manifest.json", "curve.jsonl", STATUS)
WEIGHTS = "model.safetensors"
# What the parts of one study must have in common, so that their runs can be compared.
COMMON = ("study", "question", "design", "match", "compare_within", "train", "tuning")
MAX_FILE_BYTES = 2**28  # of what is read into memory; a curve has some hundred bytes a line
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # no way out of the folder that it is joined to
TAKEN = "somebody trains this run now; stop it first"


def pack(store: Store, archive: Path, *, weights: bool) -> int:
    """Write the record and every run that has ended into one .tar.gz; the number of runs.

    The same study gives the same bytes. Raises `RecordError` where there is no study, nothing in it has ended, or the
    archive is a folder.
    """
    if archive.is_dir():
        raise RecordError(f"{archive}: this is a folder: name the archive's file in it")
    record = store.read_study()
    names = (*CONTENT, WEIGHTS) if weights else CONTENT
    ended = [
        run_id
        for run_id in dict.fromkeys(run.run_id for run in record.runs)
        if store.run(run_id).has_ended(store.run(run_id).read_status())
    ]
    if not ended:
        raise RecordError(f"{store.path}: no run has ended, so there is nothing to pack")

    def write(file: Any) -> None:
        # Without a date in it, so that packing twice gives the same bytes.
        zipped = gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0)
        with zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
            _add(tar, "study.json", store.record.read_bytes())
            for run_id in ended:
                for name in names:
                    path = store.run(run_id).path / name
                    if path.exists():
                        _add(tar, f"{run_id}/{name}", path.read_bytes())

    write_atomic(archive, write)
    return len(ended)


def merge(store: Store, archives: Iterable[Path]) -> tuple[int, int]:
    """Bring the runs of archives into a study, which need not exist yet; the numbers of runs that came and that were
    there already. A run that has ended is never replaced by one that has not.

    Nothing is written before all archives were checked. Raises `RecordError` where an archive is none, where the
    studies are different questions, where a run is there with other results, or where a search is at work.
    """
    parts = [(archive, *_read(archive)) for archive in archives]
    record = store.read_study() if store.record.exists() else None
    if record is not None and "space" in record.tuning and store.has_driver():
        raise RecordError(
            f"{store.path}: a search is at work on it, and writes down its own trials alone: stop it first"
        )
    incoming: dict[str, Mapping[str, bytes]] = {}
    for archive, other, runs in parts:
        record = other if record is None else _join(record, other, archive)
        for run_id, files in runs.items():
            _check(archive, run_id, files, incoming.get(run_id) or _files(store.run(run_id)))
            incoming.setdefault(run_id, files)
    if record is None:
        raise RecordError("no archive to merge")
    new = [run_id for run_id in incoming if _files(store.run(run_id)) is None]
    for run_id in new:
        if is_held(store.run(run_id).curve):
            raise RecordError(f"{store.run(run_id).path}: {TAKEN}")
    for archive, _, runs in parts:
        _extract_weights(archive, store, [run_id for run_id in new if incoming[run_id] is runs.get(run_id)])
    for run_id in new:
        _write(store.run(run_id), incoming[run_id])
    store.write_study(record)
    return len(new), len(incoming) - len(new)


def _write(folder: RunFolder, content: Mapping[str, bytes]) -> None:
    """What a run left elsewhere, the status last: it says that all is there. Nobody trains the run meanwhile: the curve
    is the lease, so it is held, and stays the same file. Raises `RecordError` where somebody was faster."""
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        curve = CurveWriter(folder.curve)
    except BusyError:
        raise RecordError(f"{folder.path}: {TAKEN}") from None
    with curve:
        curve.replace(content["curve.jsonl"])
        curve.sync()
        for name in sorted(content.keys() - {"curve.jsonl"}, key=lambda name: name == STATUS):
            write_atomic(folder.path / name, content[name])
        folder.checkpoint.unlink(missing_ok=True)


def read_study_name(archive: Path) -> str:
    """Raises `RecordError` where the file is no archive."""
    return _read(archive)[0].study


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _read(archive: Path) -> tuple[StudyRecord, dict[str, dict[str, bytes]]]:
    """The record, and the files of each run, weights aside. Only names that `pack` writes are taken, whatever the
    archive holds."""
    runs: dict[str, dict[str, bytes]] = {}
    record: StudyRecord | None = None
    try:
        for name, file in _entries(archive, ("study.json", *CONTENT)):
            content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise RecordError(f"{name} has more than {MAX_FILE_BYTES} bytes")
            if name.parts == ("study.json",):
                record = StudyRecord.from_dict(parse_json(content, "study.json"), "study.json")
            elif len(name.parts) == 2:
                runs.setdefault(name.parts[0], {})[name.name] = content
        if record is None:
            raise RecordError("it holds no study.json")
        known = {run.run_id for run in record.runs}
        wrong = [name for name in (record.study, *sorted(known)) if not FOLDER_NAME.fullmatch(name)]
        if wrong:
            raise RecordError(f"study.json: {wrong[0]!a} cannot be a folder's name")
        if not isinstance(record.data.get("hash"), str):
            raise RecordError("study.json: data has no hash")
    except (OSError, EOFError, tarfile.TarError, zlib.error, RecordError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(":")
        raise RecordError(f"{archive}: not an archive that ablate pack wrote: {reason}") from None
    return record, {run_id: files for run_id, files in runs.items() if run_id in known}


def _entries(archive: Path, names: Collection[str]) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """The regular files of these names in the archive, whatever folder they are in.

    Raises `OSError` or `EOFError` at the end where the archive does not have its own checksum: tarfile stops before
    that, and at an entry that it cannot read, as if it were the end.
    """
    with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r:") as tar:
        for entry in tar:
            name = PurePosixPath(entry.name)
            file = tar.extractfile(entry) if entry.isreg() and name.name in names else None
            if file is not None:
                yield name, file
        while content.read(2**20):
            pass


def _extract_weights(archive: Path, store: Store, run_ids: Collection[str]) -> None:
    """Weights do not fit into memory together. They come first: without a status they say nothing."""
    for name, file in _entries(archive, (WEIGHTS,)):
        if len(name.parts) == 2 and name.parts[0] in run_ids:
            folder = store.run(name.parts[0])
            folder.path.mkdir(parents=True, exist_ok=True)
            write_atomic(folder.weights, partial(shutil.copyfileobj, file))


def _join(one: StudyRecord, other: StudyRecord, archive: Path) -> StudyRecord:
    """The union of two records. Raises `RecordError` where they are not parts of one study."""
    for key in COMMON:
        if getattr(one, key) != getattr(other, key):
            raise RecordError(f"{archive}: another study: {key} is {getattr(other, key)!r}, not {getattr(one, key)!r}")
    if one.data["hash"] != other.data["hash"]:
        raise RecordError(
            f"{archive}: trained on other data: hash {other.data['hash'][:12]}, not {one.data['hash'][:12]}"
        )
    arms = {arm.arm: arm for arm in one.arms}
    for arm in other.arms:
        mine = arms.setdefault(arm.arm, arm)
        if (mine.axes, mine.baseline, mine.n_params, mine.n_tokens) != (
            arm.axes,
            arm.baseline,
            arm.n_params,
            arm.n_tokens,
        ):
            raise RecordError(f"{archive}: the arm {arm.arm} is another one there")
        if mine.identity and arm.identity and mine.identity != arm.identity:
            raise RecordError(f"{archive}: the arm {arm.arm} was trained with other settings there")
    runs = {(run.arm, run.seed): run for run in (*other.runs, *one.runs)}
    for run in other.runs:
        if runs[run.arm, run.seed].run_id != run.run_id:
            raise RecordError(f"{archive}: {run.arm},seed={run.seed} was trained with other settings there")
    axes = {axis: tuple(dict.fromkeys((*one.axes.get(axis, ()), *levels))) for axis, levels in other.axes.items()}
    order = {name: index for index, name in enumerate(arms)}
    return replace(
        one,
        axes={**one.axes, **axes},
        arms=tuple(arms.values()),
        runs=tuple(sorted(runs.values(), key=lambda run: (run.seed, order[run.arm]))),
    )


def _files(folder: RunFolder) -> dict[str, bytes] | None:
    """What a run that has ended left behind; None where it has not."""
    if not folder.has_ended(folder.read_status()) or not folder.curve.exists():
        return None
    return {name: (folder.path / name).read_bytes() for name in CONTENT if (folder.path / name).exists()}


def _check(archive: Path, run_id: str, files: Mapping[str, bytes], present: Mapping[str, bytes] | None) -> None:
    """Raises `RecordError` where the run is not whole, or is here already with other numbers."""
    try:
        _check_whole(files)
    except RecordError as error:
        raise RecordError(f"{archive}: the run {run_id}: {error}") from None
    if present is not None and present["curve.jsonl"] != files["curve.jsonl"]:
        raise RecordError(
            f"{archive}: the run {run_id} is here already with another curve; remove the one that is wrong"
        )


def _check_whole(files: Mapping[str, bytes]) -> None:
    """Raises `RecordError` unless these are the files that a run leaves behind when it has ended."""
    missing = [name for name in CONTENT if name not in files]
    if missing:
        raise RecordError(f"it has no {missing[0]}")
    for name in ("config.json", "manifest.json"):
        if not isinstance(parse_json(files[name], name), dict):
            raise RecordError(f"{name} holds no mapping")
    status, curve = Status.from_dict(parse_json(files[STATUS], STATUS), STATUS), files["curve.jsonl"]
    if status.state not in ENDED:
        raise RecordError(f"it is {status.state}, so it has no result to merge")
    if status.curve not in (None, (len(curve), zlib.crc32(curve))):
        raise RecordError("its curve is not the one that it ended with")
