"""Studies trained in parts on machines that share no storage."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import pytest

from ablate.errors import RecordError
from ablate.files import write_atomic
from ablate.tracking.archive import merge, pack, read_study_name
from ablate.tracking.curve import CurveWriter, is_held
from ablate.tracking.folders import StudyFolder
from ablate.tracking.reruns import read_reruns
from ablate.tracking.study_record import Status

WriteStudy = Callable[..., StudyFolder]


def packed(store: StudyFolder, *, weights: bool = False) -> Path:
    archive = store.path.parent / "part.tar.gz"
    pack(store, archive, weights=weights)
    return archive


def files(store: StudyFolder) -> dict[str, bytes]:
    return {str(path.relative_to(store.path)): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def test_two_parts_make_the_whole(write_study: WriteStudy, tmp_path: Path) -> None:
    whole = write_study("whole", seeds=(0, 1, 2))
    parts = [packed(write_study("a", seeds=(0,)), weights=True), packed(write_study("b", seeds=(1, 2)), weights=True)]
    merged = StudyFolder(tmp_path / "merged" / "s")
    assert merge(merged, parts) == (6, 0)
    assert files(merged) == files(whole)
    assert merge(merged, parts[:1]) == (0, 2)
    assert files(merged) == files(whole)


@pytest.mark.parametrize("order", [("cut", "whole"), ("whole", "cut")])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_run_that_was_stopped_early_yields_to_the_one_that_went_on(
    write_study: WriteStudy, tmp_path: Path, order: tuple[str, str], at_once: bool
) -> None:
    """A trial waited on one machine and became a finalist on another. Its weights from the first one are outdated."""
    stores = {name: write_study(name) for name in ("cut", "whole")}
    run_id = stores["cut"].read_study().runs[0].run_id
    waiting, ended = stores["cut"].run(run_id), stores["whole"].run(run_id)
    with CurveWriter(waiting.curve) as curve:
        curve.rewind(0, 0)
        curve.append({"step": 1, "val_loss": 3.0})
        mark = curve.n_bytes, curve.crc32
    waiting.write_status(Status("finished", step=1, n_steps=2, curve=mark))
    archives = [packed(stores[name], weights=name == "cut") for name in order]
    merged = StudyFolder(tmp_path / "merged" / "s")
    for part in [archives] if at_once else [archives[:1], archives[1:]]:
        merge(merged, part)
    assert merged.run(run_id).curve.read_bytes() == ended.curve.read_bytes()
    assert merged.run(run_id).read_status() == ended.read_status()
    assert not merged.run(run_id).weights.exists()
    other = packed(write_study("other", shift=0.1))
    with pytest.raises(RecordError, match="is here already with another curve"):
        merge(merged, [archives[order.index("cut")], other])


def test_packing_twice_gives_the_same_bytes_and_weights_on_demand(write_study: WriteStudy) -> None:
    store = write_study()
    first = packed(store).read_bytes()
    assert packed(store).read_bytes() == first
    with tarfile.open(packed(store)) as tar:
        assert not [name for name in tar.getnames() if name.endswith("safetensors")]
    assert read_study_name(packed(store)) == "s"


def test_an_archive_that_is_a_folder_is_one_message(write_study: WriteStudy, tmp_path: Path) -> None:
    store = write_study()
    for folder in (Path(), tmp_path):
        with pytest.raises(RecordError, match="this is a folder; name a file"):
            pack(store, folder, weights=False)


def test_only_runs_that_ended_are_packed(write_study: WriteStudy) -> None:
    store = write_study()
    for run in store.read_study().runs:
        store.run(run.run_id).write_status(Status("running"))
    with pytest.raises(RecordError, match="no run has ended"):
        pack(store, store.path / "x.tar.gz", weights=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shift": 0.5}, "another curve"),
        ({"data": "other"}, "other data"),
        ({"seeds": (5, 6), "settings": "t"}, "the arm a=1 was trained with other settings there"),
    ],
)
def test_conflicts_are_refused_and_nothing_is_written(
    write_study: WriteStudy, changes: dict[str, object], words: str
) -> None:
    store = write_study("a")
    before = files(store)
    with pytest.raises(RecordError, match=words):
        merge(store, [packed(write_study("new", seeds=(7,))), packed(write_study("b", **changes))])
    assert files(store) == before


def test_an_archive_writes_nowhere_but_into_the_study(write_study: WriteStudy, tmp_path: Path) -> None:
    good = packed(write_study("a"))
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(good) as source, tarfile.open(evil, "w:gz") as tar:
        for entry in source:
            tar.addfile(entry, source.extractfile(entry))
        for name in ("../config.json", "/tmp/config.json", "../../escaped/config.json", "ffff/config.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"{}"))
    merged = StudyFolder(tmp_path / "m" / "s")
    merge(merged, [evil])
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"s"}
    assert not (merged.path / "ffff").exists()


def rewrite(archive: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    """Rewrite the archive with changed names and contents."""
    changed = archive.with_name("changed.tar.gz")
    with tarfile.open(archive) as source, tarfile.open(changed, "w:gz") as tar:
        for entry in source:
            name, content = change(entry.name, cast("IO[bytes]", source.extractfile(entry)).read())
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return changed


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "..", "", "a/b", "x\x1b[31m"])
@pytest.mark.parametrize("is_run", [True, False])
def test_a_record_cannot_name_a_folder_outside_the_study(
    write_study: WriteStudy, tmp_path: Path, name: str, is_run: bool
) -> None:
    store = write_study()
    victim = store.read_study().runs[0].run_id if is_run else "s"
    text = json.dumps(name).encode()[1:-1]

    def change(path: str, content: bytes) -> tuple[str, bytes]:
        return path.replace(victim, name) if is_run else path, content.replace(
            b'"%s"' % victim.encode(), b'"%s"' % text
        )

    (tmp_path / "m").mkdir()
    archive = rewrite(packed(store), change)
    for act in (read_study_name, lambda archive: merge(StudyFolder(tmp_path / "m" / "s"), [archive])):
        with pytest.raises(RecordError, match="cannot be a folder's name"):
            act(archive)
    assert not list((tmp_path / "m").iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("study.json", b"[" * 100_000),
        ("study.json", b"\xff\xfe"),
        ("study.json", b"9" * 5000),
        ("study.json", b"{}"),
        ("config.json", b"[]"),
        ("manifest.json", b""),
        ("status.json", b"{}"),
        ("status.json", b'{"state": "running"}'),
        ("curve.jsonl", b""),
    ],
)
def test_damaged_files_in_an_archive_are_refused_and_nothing_is_written(
    write_study: WriteStudy, tmp_path: Path, name: str, content: bytes
) -> None:
    archive = rewrite(packed(write_study()), lambda path, old: (path, content if path.endswith(name) else old))
    with pytest.raises(RecordError, match=rf"changed.tar.gz: .*({name.split('.')[0]}|running)") as error:
        merge(StudyFolder(tmp_path / "m" / "s"), [archive])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m").exists()


def test_a_file_that_unpacks_to_more_than_memory_is_refused(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.tracking.archive.MAX_FILE_BYTES", 10_000)
    bomb = rewrite(
        packed(write_study()), lambda path, old: (path, bytes(10_001) if path.endswith("curve.jsonl") else old)
    )
    with pytest.raises(RecordError, match="more than 10000 bytes"):
        merge(StudyFolder(tmp_path / "m" / "s"), [bomb])


def test_a_run_is_nobody_elses_while_it_is_merged(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, merged = packed(write_study("a", seeds=(0,))), StudyFolder(tmp_path / "merged" / "s")
    run_ids = [run.run_id for run in StudyFolder(tmp_path / "a" / "s").read_study().runs]
    half = merged.run(run_ids[0])
    half.path.mkdir(parents=True)
    half.curve.write_bytes(b'{"step": 1}\n')
    half.checkpoint.write_bytes(b"c")
    inode = half.curve.stat().st_ino  # a worker about to train it may have it open
    seen: list[bool] = []

    def write(path: Path, content: bytes) -> None:
        if path.parent == half.path:
            seen.append(is_held(half.curve) and half.curve.stat().st_ino == inode)
        write_atomic(path, content)

    monkeypatch.setattr("ablate.tracking.archive.write_atomic", write)
    assert merge(merged, [archive]) == (2, 0)
    assert seen == [True] * 3
    assert not half.checkpoint.exists()
    assert all(merged.run(run_id).has_ended(merged.run(run_id).read_status()) for run_id in run_ids)
    with CurveWriter(half.curve):
        half.write_status(Status("running"))
        with pytest.raises(RecordError, match="this run is being trained now"):
            merge(merged, [archive])


def test_a_bit_that_changed_on_the_way_changes_no_result(write_study: WriteStudy, tmp_path: Path) -> None:
    """tarfile treats an unreadable entry as the end, and never reads as far as the checksum."""
    archive = packed(write_study(), weights=True)
    good, damaged, header = archive.read_bytes(), tmp_path / "x.tar.gz", 10
    merge(StudyFolder(tmp_path / "whole" / "s"), [archive])
    whole, refused, places = files(StudyFolder(tmp_path / "whole" / "s")), 0, range(header, len(good), 7)
    for place in places:
        damaged.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        store = StudyFolder(tmp_path / str(place) / "s")
        try:
            merge(store, [damaged])
        except RecordError as error:
            refused += "not an archive that ablate pack wrote" in str(error)
            assert not store.path.exists()
        else:  # a code that the compression does not use
            assert files(store) == whole
    assert refused > 0.9 * len(places)
    damaged.write_bytes(gzip.decompress(good))  # without a checksum
    with pytest.raises(RecordError, match="Not a gzipped file"):
        merge(StudyFolder(tmp_path / "m" / "s"), [damaged])


def test_nothing_is_merged_into_a_search_at_work(write_study: WriteStudy) -> None:
    """The search rewrites the record with every trial, so runs merged meanwhile would be lost from it."""
    store, archive = write_study("a"), packed(write_study("b", seeds=(7,)))
    store.write_study(replace(store.read_study(), tuning={"space": {}}))
    with store.driver_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        before = files(store)
        with pytest.raises(RecordError, match="a search is running here"):
            merge(store, [archive])
        assert files(store) == before


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_what_is_no_archive_is_refused_in_one_line(
    write_study: WriteStudy, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "x.tar.gz"
    good = packed(write_study()).read_bytes()
    path.write_bytes(good[: len(good) // 2] if content is None else content)
    with pytest.raises(RecordError, match="not an archive that ablate pack wrote") as error:
        merge(StudyFolder(tmp_path / "s"), [path])
    assert "\n" not in str(error.value)
    with pytest.raises(RecordError, match=r"none.tar.gz: there is no such file$"):
        merge(StudyFolder(tmp_path / "s"), [tmp_path / "none.tar.gz"])


def build(archive: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for entry, content in entries:
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content))
    return archive


def entries_of(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as tar:
        return [(entry, cast("IO[bytes]", tar.extractfile(entry)).read()) for entry in tar]


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


RECORD_CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "levels": ({"axes": {"a": [{}, [], 1]}}, ""),
    "database": ({"study": "mlflow.db"}, "cannot be a folder's name"),
    "artifacts": ({"study": "MLartifacts"}, "cannot be a folder's name"),
    "no hash": ({"data": {}}, "data has no hash"),
    "no runs": ({"runs": 3}, "runs"),
    "infinite": (
        {"question": "q", "data": {"hash": "c0ffee", "x": float("inf")}},
        "a number that JSON cannot express",
    ),
    "twice": ({"runs": [{"run_id": "10" * 8, "arm": "a=1", "seed": 0}] * 2}, "two of its runs are named"),
    **{
        f"run id {name}": ({"runs": [{"run_id": name, "arm": "a=1", "seed": 0}]}, "cannot be a folder's name")
        for name in ("report", "study.json", "..", "CON", "ABCDEF", "a" * 65, "0f.", ".driver.lock", "")
    },
}


@pytest.mark.parametrize("name", RECORD_CHANGES)
def test_a_record_of_a_stranger_ended_in_a_traceback(write_study: WriteStudy, tmp_path: Path, name: str) -> None:
    changes, problem = RECORD_CHANGES[name]
    archive = packed(write_study())
    content = [
        (entry, json.dumps(json.loads(old) | changes).encode() if entry.name == "study.json" else old)
        for entry, old in entries_of(archive)
    ]
    evil = build(tmp_path / "evil.tar.gz", content)
    store = StudyFolder(tmp_path / "m" / "s")
    if not problem:
        for _ in range(2):
            merge(store, [evil])
        assert [*store.read_study().axes["a"]] == [{}, [], 1]
        return
    with pytest.raises(RecordError, match=problem) as error:
        merge(store, [evil])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m").exists()


RUN = "10" * 8
ATTACKS: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "record twice": ([(named("study.json"), b"{}")], "study.json twice"),
    "curve twice": ([(named(f"./{RUN}/curve.jsonl"), b"")], "curve.jsonl twice"),
    "link": ([(named(f"{RUN}/model.safetensors", tarfile.SYMTYPE, "/etc/passwd"), b"")], "not a plain file"),
    "hard link": ([(named(f"{RUN}/model.safetensors", tarfile.LNKTYPE, "study.json"), b"")], "not a plain file"),
    "device": ([(named(f"{RUN}/model.safetensors", tarfile.CHRTYPE), b"")], "not a plain file"),
    "evil weights": ([(named(f"{RUN}/model.safetensors"), b"evil")], "not complete weights"),
    "zero weights": ([(named(f"{RUN}/model.safetensors"), bytes(1000))], "not complete weights"),
    "bomb": ([(named("x"), bytes(2**24))], "unpacks to more than"),
    "long header": ([(named("x" * 2**21), b"")], "a header of more than a megabyte"),
    "outside": ([(named(f"../{RUN}/curve.jsonl"), b"x"), (named("/tmp/config.json"), b"{}")], ""),
    "unlisted curve": ([(named(f"{'f' * 16}/curve.jsonl"), b"x" * 2**20)], ""),
    "folder": ([(named(RUN, tarfile.DIRTYPE), b""), (named("s\N{LATIN SMALL LETTER E WITH ACUTE}"), b"x")], ""),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_archive_of_a_stranger_filled_memory_or_disk(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ablate.tracking.archive_reader.MIN_ROOM_BYTES", 2**21)
    added, problem = ATTACKS[name]
    evil = build(tmp_path / "evil.tar.gz", entries_of(packed(write_study())) + added)
    store = StudyFolder(tmp_path / "m" / "s")
    tracemalloc.start()
    try:
        if problem:
            with pytest.raises(RecordError, match=rf"evil\.tar\.gz: .*{problem}") as error:
                merge(store, [evil])
            assert "\n" not in str(error.value)
            assert not (tmp_path / "m").exists()
        else:
            assert merge(store, [evil]) == (4, 0)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert not [*tmp_path.glob(".ablate-merge-*")]


@pytest.mark.parametrize("breaks", ["status.json", "config.json", "curve.jsonl", "study.json", "model.safetensors"])
@pytest.mark.parametrize("is_new", [True, False])
def test_half_a_merge_was_left(write_study: WriteStudy, tmp_path: Path, breaks: str, is_new: bool) -> None:
    """Something is in the way of the last run."""
    archive = packed(write_study("a"), weights=True)
    store = StudyFolder(tmp_path / "m" / "s")
    run_ids = [run.run_id for run in StudyFolder(tmp_path / "a" / "s").read_study().runs]
    if not is_new:
        half = store.run(run_ids[0])
        half.path.mkdir(parents=True)
        half.curve.write_bytes(b'{"step": 1}\n')
        half.checkpoint.write_bytes(b"c")
        half.write_status(Status("queued", step=1, n_steps=2))
    target = store.record if breaks == "study.json" else store.run(run_ids[-1]).path / breaks
    target.mkdir(parents=True)
    before = {path: path.read_bytes() if path.is_file() else None for path in store.path.rglob("*")}
    with pytest.raises((RecordError, OSError), match="this is a folder, not a file"):
        merge(store, [archive])
    assert {path: path.read_bytes() if path.is_file() else None for path in store.path.rglob("*")} == before
    target.rmdir()
    assert merge(store, [archive]) == (4, 0)
    assert not [*store.path.rglob("checkpoint.pt")]


def test_the_check_of_weights_names_the_run_and_writes_nothing(write_study: WriteStudy, tmp_path: Path) -> None:
    archive = packed(write_study(), weights=True)

    def refuse(folder: Path) -> None:
        raise RecordError(f"{sorted(path.name for path in folder.iterdir())}")

    with pytest.raises(RecordError, match=f"the run {RUN}: .*model.safetensors.*without its weights"):
        merge(StudyFolder(tmp_path / "m" / "s"), [archive], refuse)
    assert not (tmp_path / "m").exists()


REPORTS = Path(__file__).parents[2] / "reports"
CONTINUED = {"ngpt-vs-gpt-2": "ngpt-vs-gpt", "ngpt-vs-gpt-2-tune": "ngpt-vs-gpt-tune"}
"""Published archives that leave out the runs in those of the study that they continue."""


@pytest.mark.parametrize("folder", sorted({path.parent for path in REPORTS.rglob("*.tar.gz")}), ids=str)
def test_every_published_archive_merges(tmp_path: Path, folder: Path) -> None:
    archives = sorted(folder.glob("*.tar.gz"))
    for study in {read_study_name(archive) for archive in archives}:
        store = StudyFolder(tmp_path / study)
        parts = [archive for archive in archives if read_study_name(archive) == study]
        for part in parts:
            n_runs, n_present = merge(store, [part])
            assert n_present == 0
            assert merge(store, [part]) == (0, n_runs)
        runs = {run.run_id for run in store.read_study().runs}
        found = store.list_names()
        if name := CONTINUED.get(study):
            earlier = StudyFolder(tmp_path / name)
            merge(earlier, [path for path in REPORTS.rglob("*.tar.gz") if read_study_name(path) == name])
            found |= earlier.list_names()
        if json.loads((folder.parent / "summary.json").read_text()).get("is_complete", True):
            assert runs <= found


def test_reruns_are_noted_and_the_first_run_counts(write_study: WriteStudy) -> None:
    store, again = write_study("a"), write_study("b", shift=0.024)
    curves = {name: content for name, content in files(store).items() if name.endswith("curve.jsonl")}
    archive = packed(again)
    with pytest.raises(RecordError, match="add --reruns if both are right"):
        merge(store, [archive])
    for _ in range(2):  # the second time, they are known
        assert merge(store, [archive], keeps_reruns=True) == (0, 4)
        kept = files(store)
        assert {name: kept[name] for name in curves} == curves
        (rerun,) = read_reruns(store.run("20" * 8).path)
        assert (rerun.state, rerun.step, rerun.values["val_loss"]) == ("finished", 2, pytest.approx(2.024))
    elsewhere = StudyFolder(store.path.parent.parent / "c" / "s")
    merge(elsewhere, [packed(store)])
    assert read_reruns(elsewhere.run("20" * 8).path) == (rerun,)


def test_a_failed_merge_takes_reruns_back(write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    store, archive = write_study("a"), packed(write_study("b", shift=0.1))
    before = files(store)
    monkeypatch.setattr(StudyFolder, "write_study", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        merge(store, [archive], keeps_reruns=True)
    assert files(store) == before
