"""Studies trained in parts on machines that share nothing."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import pytest

from ablate.errors import RecordError
from ablate.files import write_atomic
from ablate.tracking.archive import merge, pack, read_study_name
from ablate.tracking.curve import CurveWriter, is_held
from ablate.tracking.records import Status
from ablate.tracking.store import Store

WriteStudy = Callable[..., Store]


def packed(store: Store, *, weights: bool = False) -> Path:
    archive = store.path.parent / "part.tar.gz"
    pack(store, archive, weights=weights)
    return archive


def files(store: Store) -> dict[str, bytes]:
    return {str(path.relative_to(store.path)): path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def test_two_parts_make_the_whole(write_study: WriteStudy, tmp_path: Path) -> None:
    whole = write_study("whole", seeds=(0, 1, 2))
    parts = [packed(write_study("a", seeds=(0,)), weights=True), packed(write_study("b", seeds=(1, 2)), weights=True)]
    merged = Store(tmp_path / "merged" / "s")
    assert merge(merged, parts) == (6, 0)
    assert files(merged) == files(whole)
    assert merge(merged, parts[:1]) == (0, 2)
    assert files(merged) == files(whole)


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
        with pytest.raises(RecordError, match="this is a folder: name the archive's file"):
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
    merged = Store(tmp_path / "m" / "s")
    merge(merged, [evil])
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"s"}
    assert not (merged.path / "ffff").exists()


def rewrite(archive: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    """The archive with each file's name and content changed."""
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
    for act in (read_study_name, lambda archive: merge(Store(tmp_path / "m" / "s"), [archive])):
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
        merge(Store(tmp_path / "m" / "s"), [archive])
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
        merge(Store(tmp_path / "m" / "s"), [bomb])


def test_a_run_is_nobody_elses_while_it_is_merged(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, merged = packed(write_study("a", seeds=(0,))), Store(tmp_path / "merged" / "s")
    run_ids = [run.run_id for run in Store(tmp_path / "a" / "s").read_study().runs]
    half = merged.run(run_ids[0])
    half.path.mkdir(parents=True)
    half.curve.write_bytes(b'{"step": 1}\n')
    half.checkpoint.write_bytes(b"c")
    inode = half.curve.stat().st_ino  # somebody about to train it may have it open
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
        with pytest.raises(RecordError, match="somebody trains this run now"):
            merge(merged, [archive])


def test_a_bit_that_changed_on_the_way_changes_no_result(write_study: WriteStudy, tmp_path: Path) -> None:
    """tarfile takes an entry that it cannot read for the end, and never reads as far as the checksum."""
    archive = packed(write_study(), weights=True)
    good, damaged, header = archive.read_bytes(), tmp_path / "x.tar.gz", 10
    merge(Store(tmp_path / "whole" / "s"), [archive])
    whole, refused, places = files(Store(tmp_path / "whole" / "s")), 0, range(header, len(good), 7)
    for place in places:
        damaged.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        store = Store(tmp_path / str(place) / "s")
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
        merge(Store(tmp_path / "m" / "s"), [damaged])


def test_nothing_is_merged_into_a_search_at_work(write_study: WriteStudy) -> None:
    """It writes the record anew with every trial: what came meanwhile would be lost from it."""
    store, archive = write_study("a"), packed(write_study("b", seeds=(7,)))
    store.write_study(replace(store.read_study(), tuning={"space": {}}))
    with store.driver_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        before = files(store)
        with pytest.raises(RecordError, match="a search is at work on it"):
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
        merge(Store(tmp_path / "s"), [path])
    assert "\n" not in str(error.value)
