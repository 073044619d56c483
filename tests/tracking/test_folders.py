"""The files of a study's folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ablate.errors import RecordError
from ablate.files import write_atomic
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.study_record import STALE_S, ArmRecord, RunRecord, Status, StudyRecord

ARM = ArmRecord("a=1", {"a": 1}, {}, "a=1", 10, 60, 5, 100, ("note",))
STUDY = StudyRecord(
    "s", "?", "full", "none", (), {"a": 1}, {"a": (1, 2)}, {}, {}, (ARM,), (RunRecord("0f", "a=1", 0),), "0"
)


def test_a_study_is_written_and_read(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "s")
    store.write_study(STUDY)
    read = store.read_study()
    assert (read.arms[0].arm, read.arms[0].n_params, read.runs) == ("a=1", 10, STUDY.runs)


def test_a_missing_study_names_its_neighbours(tmp_path: Path) -> None:
    StudyFolder(tmp_path / "quickstart").write_study(STUDY)
    with pytest.raises(RecordError, match="did you mean 'quickstart'"):
        StudyFolder(tmp_path / "quikstart").read_study()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 3, "wrong": 1}', "{}"])
def test_a_status_that_cannot_be_read_counts_as_queued(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    status = RunFolder(tmp_path).read_status()
    assert status.state == "queued"
    assert "damaged" in status.notes[0]


def test_a_status_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_status() == Status("queued")
    status = Status("running", step=3, n_steps=10, worker="w", heartbeat=100.0)
    folder.write_status(status)
    assert folder.read_status() == status
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("content", [b"", b'{"state": "fin', b"[]", b"[" * 100_000])
def test_a_damaged_status_is_a_run_to_train_with_a_note(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.status.write_bytes(content)
    status = folder.read_status()
    assert status.state == "queued"
    assert "damaged" in status.notes[0]


def test_a_worker_without_a_sign_of_life_is_stale() -> None:
    status = Status("running", heartbeat=100.0)
    assert not status.is_stale(now=100.0 + STALE_S)
    assert status.is_stale(now=101.0 + STALE_S)
    assert not Status("finished", heartbeat=100.0).is_stale(now=1e9)


def test_a_clock_that_jumps_makes_no_run_stale_whose_lease_is_held(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for heartbeat in (0.0, 1e12):
        status = Status("running", heartbeat=heartbeat)
        assert status.is_stale()
        with CurveWriter(folder.curve):
            assert folder.shown_state(status) == "running"
        assert folder.shown_state(status) == "stale"


def test_a_finished_run_whose_curve_was_damaged_has_not_ended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with CurveWriter(folder.curve) as curve:
        curve.append({"step": 1})
        status = Status("finished", step=1, n_steps=1, curve=(curve.n_bytes, curve.crc32))
    assert folder.has_ended(status)
    good = folder.curve.read_bytes()
    for bad in (good[:-3], good + b"{}", good.replace(b"1", b"2")):
        folder.curve.write_bytes(bad)
        assert not folder.has_ended(status)
    folder.curve.unlink()
    assert not folder.has_ended(status)


def test_a_run_that_was_cut_has_ended_only_where_that_counts(tmp_path: Path) -> None:
    status = Status("finished", step=3, n_steps=9)
    assert status.is_cut
    assert RunFolder(tmp_path).has_ended(status)
    assert not RunFolder(tmp_path).has_ended(status, cut_counts=False)


def test_a_stop_request_differs_from_the_one_before(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path)
    seen = {store.read_stop_request()}
    for _ in range(2):
        store.request_stop()
        seen.add(store.read_stop_request())
    assert len(seen) == 3


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"old")

    def break_off(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device", "a temporary name")

    with pytest.raises(OSError, match=f"No space left on device: .{path}"):
        write_atomic(path, break_off)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_folder_is_named_by_the_file_that_people_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for call in ("open", "unlink"):
        monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(OSError, match=f"Read-only file system: .{tmp_path / 'x'}.$"):
        write_atomic(tmp_path / "x", b"")


def test_what_no_run_writes_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.curve.write_text(
        '{"step": 1, "val_loss": 2.5}\n{"step": 2, "val_loss": "x"}\n{"step": 3, "val_loss": [1]}\n'
    )
    assert folder.last_validation() == 2.5
    folder.status.write_text('{"state": "finished", "took_s": 1e999}')
    assert folder.read_status().state == "queued"
    assert "took_s" in folder.read_status().notes[0]


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    with pytest.raises(RecordError, match="no such file"):
        read_json(tmp_path / "x.json")
