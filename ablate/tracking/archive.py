"""`ablate pack` and `ablate merge`: a study trained in parts on machines that share nothing."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ablate.errors import RecordError
from ablate.files import write_atomic
from ablate.tracking.curve import BusyError, CurveWriter, is_held
from ablate.tracking.records import StudyRecord
from ablate.tracking.store import RunFolder, Store

CONTENT = ("config.json", "manifest.json", "curve.jsonl", "status.json")
WEIGHTS = "model.safetensors"
# What the parts of one study must have in common, so that their runs can be compared.
COMMON = ("study", "question", "design", "match", "compare_within", "train", "tuning")
MAX_FILE_BYTES = 64 * 2**30
TAKEN = "somebody trains this run now; stop it first"


def pack(store: Store, archive: Path, *, weights: bool) -> int:
    """Write the record and every run that has ended into one .tar.gz; the number of runs.

    The same study gives the same bytes. Raises `RecordError` where there is no study, or nothing in it has ended.
    """
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
    studies are different questions, or where a run is there with other results.
    """
    parts = [(archive, *_read(archive)) for archive in archives]
    record = store.read_study() if store.record.exists() else None
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
        for name in sorted(content.keys() - {"curve.jsonl"}, key=lambda name: name == "status.json"):
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
    """The record, and the files of each run. Only names that `pack` writes are taken, whatever the archive holds."""
    runs: dict[str, dict[str, bytes]] = {}
    record: StudyRecord | None = None
    try:
        with tarfile.open(archive) as tar:
            for name, content in _entries(tar):
                if name.parts == ("study.json",):
                    record = StudyRecord.from_dict(json.loads(content))
                elif len(name.parts) == 2 and name.name in (*CONTENT, WEIGHTS):
                    runs.setdefault(name.parts[0], {})[name.name] = content
    except (OSError, EOFError, tarfile.TarError, ValueError, RecordError) as error:
        raise RecordError(f"{archive}: not an archive that ablate pack wrote: {str(error).splitlines()[0]}") from None
    if record is None:
        raise RecordError(f"{archive}: not an archive that ablate pack wrote: it holds no study.json")
    known = {run.run_id for run in record.runs}
    for name in (record.study, *known):  # each becomes the name of a folder
        if name in ("", ".", "..") or "/" in name:
            raise RecordError(f"{archive}: not an archive that ablate pack wrote: {name!r} is no name")
    return record, {run_id: files for run_id, files in runs.items() if run_id in known}


def _entries(tar: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, bytes]]:
    for entry in tar:
        file = tar.extractfile(entry) if entry.isreg() and entry.size < MAX_FILE_BYTES else None
        if file is not None:
            yield PurePosixPath(entry.name), file.read()


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
    """Raises `RecordError` where the run is incomplete, or is here already with other numbers."""
    missing = [name for name in CONTENT if name not in files]
    if missing:
        raise RecordError(f"{archive}: the run {run_id} has no {missing[0]}")
    if present is not None and present["curve.jsonl"] != files["curve.jsonl"]:
        raise RecordError(
            f"{archive}: the run {run_id} is here already with another curve; remove the one that is wrong"
        )
