"""`ablate pack` and `ablate merge`: a study that is trained in parts on machines without a common disk."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.files import make_folder, open_regular, write_atomic
from ablate.tracking.archive_reader import OPTIONAL, RECORD, is_packable, read_record, unpack
from ablate.tracking.archived_evaluations import add_evaluations, check_evaluations, readable_evaluations
from ablate.tracking.code import CODE, check_versions, find_versions, read_code, write_code
from ablate.tracking.curve import BusyError, CurveWriter, is_held
from ablate.tracking.ended_run import CONTENT, CURVE, STATUS, WEIGHTS, check_whole, find_extent, is_present
from ablate.tracking.evaluations import EVALUATIONS
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_json
from ablate.tracking.reruns import RERUNS, Rerun, add_reruns, read_end, read_reruns
from ablate.tracking.study_record import StudyRecord
from ablate.tracking.values import Value

# All parts of a study have these in common. Otherwise their runs could not be compared.
COMMON = ("study", "question", "design", "match", "compare_within", "train", "tuning", "metrics", "seed_rule")
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

    Returns how many runs were added, and how many were there already. A run that has ended is never replaced. If it is
    here with another curve, `keeps_reruns` notes where the other one ended.

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
        record = other if record is None else _join(record, other, archive)
    if record is None:
        raise RecordError("no archive to merge")
    with _staging(store) as stage:
        incoming, reruns = _unpack_all(store, parts, stage, keeps_reruns=keeps_reruns)
        new = {run_id: folder for run_id, folder in incoming.items() if not is_present(store.run(run_id))}
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
                if folder.name in incoming:
                    add_evaluations(store.run(folder.name), folder, undo)
            for run_id, found in reruns.items():
                _note_reruns(store.run(run_id).path, found, undo)
            store.write_study(record)
            undo.pop_all()
    for run_id in new:
        with suppress(OSError):  # no longer needed; `ablate clean` removes it too
            store.run(run_id).checkpoint.unlink()
    return len(new), len(incoming) - len(new)


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
    """Unpack and check all archives. Returns the folder of each run, and the reruns of runs that are here already."""
    documents = dict.fromkeys(CONTENT, min(MAX_DOCUMENT_BYTES, MAX_FILE_BYTES))
    sizes = documents | dict.fromkeys(OPTIONAL, MAX_OPTIONAL_BYTES) | {CURVE: MAX_FILE_BYTES, WEIGHTS: 2**63}
    incoming: dict[str, Path] = {}
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
            kept = here.path if is_present(here) else incoming.get(run_id)
            if kept is not None:
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
            incoming.setdefault(run_id, folder)
    return incoming, {run_id: found for run_id, found in reruns.items() if found}


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


def _join(one: StudyRecord, other: StudyRecord, archive: Path) -> StudyRecord:
    """Join two records. Raises `RecordError` if they are not parts of one study."""
    for key in COMMON:
        if getattr(one, key) != getattr(other, key):
            raise RecordError(f"{archive}: another study: {key} is {getattr(other, key)!r}, not {getattr(one, key)!r}")
    mine, theirs = str(one.data.get("hash")), str(other.data.get("hash"))
    if mine != theirs:
        raise RecordError(f"{archive}: trained on other data: hash {theirs[:12]}, not {mine[:12]}")
    arms = {arm.arm: arm for arm in one.arms}
    for arm in other.arms:
        here = arms.setdefault(arm.arm, arm)
        if (here.axes, here.baseline, here.n_params, here.n_tokens) != (
            arm.axes,
            arm.baseline,
            arm.n_params,
            arm.n_tokens,
        ):
            raise RecordError(f"{archive}: the arm {arm.arm} is a different one there")
        if here.identity and arm.identity and here.identity != arm.identity:
            raise RecordError(f"{archive}: the arm {arm.arm} was trained with other settings there")
    runs = {(run.arm, run.seed): run for run in (*other.runs, *one.runs)}
    for run in other.runs:
        if runs[run.arm, run.seed].run_id != run.run_id:
            raise RecordError(f"{archive}: {run.arm},seed={run.seed} was trained with other settings there")
    axes = {axis: _unite(one.axes.get(axis, ()), levels) for axis, levels in other.axes.items()}
    order = {name: index for index, name in enumerate(arms)}
    return replace(
        one,
        axes={**one.axes, **axes},
        arms=tuple(arms.values()),
        looks=max(one.looks, other.looks, key=len),
        history=tuple(sorted({*one.history, *other.history}, key=lambda event: event.at)),
        runs=tuple(sorted(runs.values(), key=lambda run: (run.seed, order[run.arm]))),
    )


def _unite(one: Iterable[Value], other: Iterable[Value]) -> tuple[Value, ...]:
    """Join levels that differ in their JSON. So 1, 1.0 and true are three levels, and lists and mappings work too."""
    return tuple({json.dumps(level, sort_keys=True): level for level in (*one, *other)}.values())
