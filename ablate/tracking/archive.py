"""`ablate pack` and `ablate merge`: a study that is trained in parts on machines without a common disk."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.files import make_folder, open_regular, write_atomic
from ablate.tracking.archive_reader import OPTIONAL, RECORD, is_packable, read_record, unpack
from ablate.tracking.archived_evaluations import add_evaluations, check_evaluations, readable_evaluations
from ablate.tracking.code import CODE, check_versions, find_versions, read_code, write_code
from ablate.tracking.curve import BusyError, CurveWriter, is_held
from ablate.tracking.ended_run import CONTENT, CURVE, STATUS, WEIGHTS, check_whole, find_extent, is_present, went_on
from ablate.tracking.evaluations import EVALUATIONS
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.joined_records import join_records
from ablate.tracking.json_files import read_json
from ablate.tracking.reruns import RERUNS, Rerun, add_reruns, read_end, read_reruns
from ablate.tracking.study_record import StudyRecord

MAX_FILE_BYTES = 2**30  # of a curve, which has a few hundred bytes per line
MAX_OPTIONAL_BYTES = 2**25  # of a log or a difference, both of which are cut where they are written
MAX_DOCUMENT_BYTES = 2**22  # of a run's config, manifest or status, which is parsed as a whole
TAKEN = "this run is being trained now; stop it first"

CheckModel = Callable[[Path], object]


def pack(store: StudyFolder, archive: Path, *, weights: bool) -> int:
    """Write the record and every run that has ended into one .tar.gz, and return the number of runs.

    The same study gives the same bytes. Raises `RecordError` if there is no study, if no run has ended, if a file of
    an ended run is missing or damaged, or if the archive is a folder. Raises `OSError` if the archive is a device or
    the like.
    """
    if archive.is_dir():
        raise RecordError(f"{archive}: this is a folder; name a file in it")
    record = store.read_study()
    names = (*CONTENT, *OPTIONAL, *([WEIGHTS] if weights else []))
    ended = [
        folder
        for folder in map(store.run, dict.fromkeys(run.run_id for run in record.runs))
        if folder.has_ended(folder.read_status())
    ]
    if not ended:
        raise RecordError(f"{store.path}: no run has ended, so there is nothing to pack")
    for folder in ended:
        try:
            check_whole(folder.path, weights=weights)
        except RecordError as error:
            reason = str(error).replace(f"{folder.path}{os.sep}", "")
            raise RecordError(f"{folder.path}: {reason}; `ablate run` says what to do") from None

    def write(file: Any) -> None:
        # Without a date, so that packing twice gives the same bytes.
        zipped = gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0)
        with zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
            _add(tar, RECORD, store.record)
            for folder in ended:
                for name in names:
                    if name in CONTENT or is_packable(folder.path / name):
                        _add(tar, f"{folder.path.name}/{name}", folder.path / name)
                for path in readable_evaluations(folder.path):
                    _add(tar, f"{folder.path.name}/{EVALUATIONS}/{path.name}", path)
            for version in find_versions(store.code, (read_json(folder.config) for folder in ended)):
                for name in read_code(store.code / version):
                    _add(tar, f"{CODE}/{version}/{name}", store.code / version / name)

    write_atomic(archive, write)
    return len(ended)


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    entry = tarfile.TarInfo(name)
    with open_regular(path) as file:
        entry.size = os.fstat(file.fileno()).st_size
        tar.addfile(entry, file)


def merge(
    store: StudyFolder,
    archives: Iterable[Path],
    check_model: CheckModel | None = None,
    *,
    keeps_reruns: bool = False,
) -> tuple[int, int]:
    """Add the runs of archives to a study, which need not exist yet.

    Returns how many runs were added, and how many were there already. A run that has ended is not replaced, unless it
    was stopped early here and went on elsewhere. If it is here with another curve, `keeps_reruns` notes where the other
    one ended.

    Either all archives are merged or none: they are unpacked and checked next to the study first, and a failure undoes
    everything that was written. `check_model` is called with the folder of each new run that has weights, and raises
    `RecordError` if they do not match its config. Raises `RecordError` if a file is not an archive, if the studies ask
    different questions, if a run exists with other results and `keeps_reruns` is false, or if a search is running.
    """
    parts = [(archive, read_record(archive)) for archive in archives]
    record = store.read_study() if os.path.lexists(store.record) else None
    if record is not None and "space" in record.tuning and store.has_driver():
        raise RecordError(f"{store.path}: a search is running here, and only the search may add trials; stop it first")
    for archive, other in parts:
        record = other if record is None else join_records(record, other, archive)
    if record is None:
        raise RecordError("no archive to merge")
    with _staging(store) as stage:
        counted, reruns = _unpack_all(store, parts, stage, keeps_reruns=keeps_reruns)
        new = {run_id: folder for run_id, folder in counted.items() if folder != store.run(run_id).path}
        for run_id, folder in new.items():
            if is_held(store.run(run_id).curve):
                raise RecordError(f"{store.run(run_id).path}: {TAKEN}")
            if check_model is not None and (folder / WEIGHTS).exists():
                try:
                    check_model(folder)
                except RecordError as error:
                    raise RecordError(f"the run {run_id}: {error}; pack it again, or without its weights") from None
        with ExitStack() as undo:
            undo.callback(_remove_empty, [store.path, *store.path.parents], {*_existing(store.path)})
            for version in stage.glob(f"*/{CODE}/*"):
                if not (store.code / version.name).exists():
                    undo.callback(shutil.rmtree, store.code / version.name, ignore_errors=True)
                write_code(store.code, read_code(version))
            for run_id, folder in new.items():
                _write(store.run(run_id), folder, stage / "before" / run_id, undo)
            for folder in stage.glob("*/*"):
                if folder.name in counted:
                    add_evaluations(store.run(folder.name), folder, undo)
            for run_id, found in reruns.items():
                _note_reruns(store.run(run_id).path, found, undo)
            store.write_study(record)
            undo.pop_all()
    for run_id in new:
        with suppress(OSError):  # no longer needed; `ablate clean` removes it too
            store.run(run_id).checkpoint.unlink()
    return len(new), len(counted) - len(new)


@contextmanager
def _staging(store: StudyFolder) -> Iterator[Path]:
    """Provide a temporary folder for unchecked files, on the same disk as the study."""
    place = _existing(store.path.parent)[0]
    with tempfile.TemporaryDirectory(prefix=".ablate-merge-", dir=place) as folder:
        yield Path(folder)


def _existing(path: Path) -> list[Path]:
    return [folder for folder in (path, *path.parents) if folder.is_dir()]


def _remove_empty(folders: Iterable[Path], kept: set[Path]) -> None:
    for folder in folders:
        if folder not in kept:
            with suppress(OSError):
                folder.rmdir()


def _unpack_all(
    store: StudyFolder, parts: Iterable[tuple[Path, StudyRecord]], stage: Path, *, keeps_reruns: bool
) -> tuple[dict[str, Path], dict[str, list[Rerun]]]:
    """Unpack and check all archives. Returns the folder in which each of their runs counts, and the reruns of runs that
    are here already."""
    documents = dict.fromkeys(CONTENT, min(MAX_DOCUMENT_BYTES, MAX_FILE_BYTES))
    sizes = documents | dict.fromkeys(OPTIONAL, MAX_OPTIONAL_BYTES) | {CURVE: MAX_FILE_BYTES, WEIGHTS: 2**63}
    counted: dict[str, Path] = {}
    reruns: dict[str, list[Rerun]] = {}
    for index, (archive, record) in enumerate(parts):
        found = unpack(archive, record, stage / str(index), sizes)
        check_versions(stage / str(index) / CODE, archive)
        for run_id, folder in found.items():
            try:
                check_whole(folder, weights=True)
                check_evaluations(folder)
            except RecordError as error:
                reason = str(error).replace(f"{folder}{os.sep}", "")  # the temporary folder will be gone
                raise RecordError(f"{archive}: the run {run_id}: {reason}") from None
            here = store.run(run_id)
            kept = counted.get(run_id) or (here.path if is_present(here) else None)
            if kept is None or went_on(folder, kept):
                counted[run_id] = folder
                continue
            counted[run_id] = kept
            if not went_on(kept, folder):
                again = list(read_reruns(folder))
                if (extent := find_extent(folder / CURVE)) != find_extent(kept / CURVE):
                    if not keeps_reruns:
                        raise RecordError(
                            f"{archive}: the run {run_id} is here already with another curve; remove the one that is "
                            "wrong, or add --reruns if both are right: the first one counts, and reports say how far "
                            "they differ"
                        )
                    again.append(read_end(folder, extent))
                reruns.setdefault(run_id, []).extend(again)
    return counted, {run_id: found for run_id, found in reruns.items() if found}


def _note_reruns(folder: Path, found: Iterable[Rerun], undo: ExitStack) -> None:
    """Add reruns to a run. `undo` receives the step that takes them back."""
    path = folder / RERUNS
    before = path.read_bytes() if path.exists() else None
    undo.callback(path.unlink, missing_ok=True) if before is None else undo.callback(write_atomic, path, before)
    add_reruns(folder, found, find_extent(folder / CURVE))


def _write(target: RunFolder, source: Path, before: Path, undo: ExitStack) -> None:
    """Copy the files of a run, its status last, because the status says that the run is complete.

    The curve is the run's lease, so it is held meanwhile and stays the same file. `undo` receives the steps that take
    everything back. Raises `RecordError` if another process holds the lease.
    """
    existed = target.path.is_dir()
    make_folder(target.path)
    if not existed:
        undo.callback(shutil.rmtree, target.path, ignore_errors=True)
    else:
        undo.callback(_restore, target.path, before)
        before.mkdir(parents=True)
        for name in (*CONTENT, *OPTIONAL, WEIGHTS):
            if (target.path / name).is_file():
                shutil.copy2(target.path / name, before / name)
    try:
        curve = CurveWriter(target.curve)
    except BusyError:
        raise RecordError(f"{target.path}: {TAKEN}") from None
    with curve:
        for name in (WEIGHTS, *OPTIONAL):
            if (source / name).exists():
                with (source / name).open("rb") as file:
                    write_atomic(target.path / name, partial(shutil.copyfileobj, file))
            elif (target.path / name).is_file():  # of a shorter run
                (target.path / name).unlink()
        with (source / CURVE).open("rb") as file:
            curve.replace(file)
        curve.sync()
        for name in sorted({*CONTENT} - {CURVE}, key=lambda name: (name == STATUS, name)):
            write_atomic(target.path / name, (source / name).read_bytes())


def _restore(folder: Path, before: Path) -> None:
    """Restore the files of a run from the copies in `before`."""
    for name in (*CONTENT, *OPTIONAL, WEIGHTS):
        with suppress(OSError, RecordError, BusyError):
            if not (before / name).exists():
                (folder / name).unlink()
            elif name == CURVE:
                with CurveWriter(folder / name) as curve, (before / name).open("rb") as file:
                    curve.replace(file)
            else:
                (before / name).replace(folder / name)


def read_study_name(archive: Path) -> str:
    """Read the name of an archive's study. Raises `RecordError` if the file is not an archive."""
    return read_record(archive).study
