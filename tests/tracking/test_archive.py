"""Studies trained in parts on machines that share nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.errors import RecordError
from ablate.tracking.archive import merge, pack, read_study_name
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


def test_only_runs_that_ended_are_packed(write_study: WriteStudy) -> None:
    store = write_study()
    for run in store.read_study().runs:
        store.run(run.run_id).write_status(Status("running"))
    with pytest.raises(RecordError, match="no run has ended"):
        pack(store, store.path / "x.tar.gz", weights=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"shift": 0.5}, "another curve"), ({"data": "other"}, "other data")],
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
