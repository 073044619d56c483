"""Every file of a run, replaced by something else: only that run is affected, and the reason is given."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.cli.status_output import describe_log, describe_runs, print_log, print_status
from ablate.errors import RecordError
from ablate.files import make_folder, open_regular, study_name_problem, write_atomic
from ablate.tracking.archive import pack
from ablate.tracking.cleaning import clean
from ablate.tracking.curve import BLOCK_BYTES, CurveWriter, is_held, read_backwards, read_curve
from ablate.tracking.folders import RunFolder, StudyFolder, find_run
from damage import DAMAGED, IN_THE_WAY

WriteStudy = Callable[..., StudyFolder]
FILES = ("status.json", "curve.jsonl", "config.json", "manifest.json", "model.safetensors", "checkpoint.pt")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", [*IN_THE_WAY, *DAMAGED])
def test_one_damaged_file_blocked_the_whole_study(
    write_study: WriteStudy, capsys: pytest.CaptureFixture[str], file: str, how: str
) -> None:
    store = write_study()
    victim, *others = (store.run(run.run_id) for run in store.read_study().runs)
    victim.checkpoint.write_bytes(b"c")
    (IN_THE_WAY | DAMAGED)[how](victim.path / file)
    rows = {row["run_id"]: row for row in describe_runs(store)}
    assert {rows[folder.path.name]["state"] for folder in others} == {"finished"}
    row = rows[victim.path.name]
    is_over = victim.has_ended(victim.read_status())
    assert (row["state"] == "finished") == is_over == (file not in ("status.json", "curve.jsonl"))
    if not is_over and (file, how) != ("status.json", "missing"):
        assert row["state"] == "interrupted"  # its checkpoint remains
        (note,) = row["notes"]
        assert note.startswith(file)
        assert file == "status.json" or "`ablate run` trains" in note
    assert not is_held(victim.curve)
    print_status(store, as_json=False)
    for folder in (victim, *others):
        print_log(describe_log(*find_run(store.path.parent, folder.path.name), 10))
    assert "Traceback" not in capsys.readouterr().out
    if file == "model.safetensors":
        assert "model.safetensors" in victim.weights_flaw()
    clean(store, "none", 0)
    assert not any(folder.weights.exists() for folder in others)
    assert all(folder.has_ended(folder.read_status()) for folder in others)


@pytest.mark.parametrize("file", FILES[:2])
@pytest.mark.parametrize("how", [*IN_THE_WAY, *DAMAGED])
def test_a_peek_at_a_state_overlooked_damage(write_study: WriteStudy, file: str, how: str) -> None:
    store = write_study()
    (IN_THE_WAY | DAMAGED)[how](store.run(store.read_study().runs[0].run_id).path / file)
    states = [store.peek_state(run.run_id) for run in store.read_study().runs]
    assert states == [None, *["finished"] * (len(states) - 1)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_peek_leaves_an_unusual_encoding_to_the_full_check(write_study: WriteStudy, encoding: str) -> None:
    store = write_study()
    run = store.run(store.read_study().runs[0].run_id)
    run.status.write_bytes(run.status.read_text().encode(encoding))
    assert store.peek_state(run.path.name) is None


@pytest.mark.parametrize("how", IN_THE_WAY)
def test_a_lease_on_what_is_no_file_names_the_remedy(tmp_path: Path, how: str) -> None:
    curve = tmp_path / "curve.jsonl"
    curve.touch()
    IN_THE_WAY[how](curve)
    with pytest.raises(RecordError, match=r"curve\.jsonl: .*; move it away, and `ablate run` trains the run again"):
        CurveWriter(curve)
    assert read_curve(curve) == list(read_backwards(curve)) == []


@pytest.mark.parametrize("file", ["config.json", "manifest.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["folder", "fifo", "loop", "device", "truncated", "list", "empty"])
def test_an_archive_that_nobody_could_merge_was_packed(
    write_study: WriteStudy, tmp_path: Path, file: str, how: str
) -> None:
    store = write_study()
    folder = store.run(store.read_study().runs[0].run_id)
    (IN_THE_WAY | DAMAGED)[how](folder.path / file)
    with pytest.raises(RecordError, match=rf"{folder.path}: .*{file}.*`ablate run` says") as error:
        pack(store, tmp_path / "x.tar.gz", weights=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.tar.gz").exists()


@pytest.mark.parametrize("how", ["folder", "fifo", "loop", "device"])
def test_an_output_replaced_a_device(write_study: WriteStudy, tmp_path: Path, how: str) -> None:
    store, out = write_study(), tmp_path / "out"
    IN_THE_WAY[how](out)
    before = out.lstat()
    for write in (lambda: write_atomic(out, b"x"), lambda: pack(store, out, weights=False)):
        with pytest.raises((OSError, RecordError), match=r"folder|FIFO|device|symbolic links"):
            write()
        assert (out.lstat().st_ino, out.lstat().st_mode) == (before.st_ino, before.st_mode)
    if how != "folder":
        with pytest.raises(OSError, match=r"not a folder|symbolic links"):
            make_folder(out / "pages")
    with pytest.raises(OSError, match=r"folder|FIFO|device|symbolic links"):
        open_regular(out, "ab")


def test_a_link_and_a_new_path_are_written(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    for name in ("link", "new"):
        write_atomic(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


def test_finished_was_what_the_status_said_and_not_what_the_curve_did(write_study: WriteStudy) -> None:
    store = write_study()
    folder = store.run(store.read_study().runs[0].run_id)
    folder.curve.unlink()
    states = [row["state"] for row in describe_runs(store)]
    unfinished = [
        run
        for run in store.read_study().runs
        if not store.run(run.run_id).has_ended(store.run(run.run_id).read_status())
    ]
    assert (states.count("finished"), len(unfinished)) == (3, 1)


def test_the_end_of_a_curve_took_all_of_its_memory(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    line = '{"step":%d,"tokens":%d,"train_loss":2.5,"learning_rate":0.001,"grad_norm":0.5,"tokens_per_s":1000.0}\n'
    with folder.curve.open("w") as file:
        file.write('{"step":1,"val_loss":3.5}\n')
        file.writelines(line % (step, step) for step in range(2, 300_000))
        file.write('{"step": 300000, "val')
    tracemalloc.start()
    began = time.monotonic()
    assert folder.last_validation() == 3.5
    tail = [record["step"] for record, _ in zip(read_backwards(folder.curve), range(3), strict=False)]
    assert tail == [299_999, 299_998, 299_997]
    assert tracemalloc.get_traced_memory()[1] < 20 * BLOCK_BYTES
    tracemalloc.stop()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("n", [1, 2, 7, 5_000, 20_000])
def test_a_curve_reads_the_same_from_either_end(tmp_path: Path, n: int) -> None:
    path = tmp_path / "curve.jsonl"
    lines = [json.dumps({"step": step, "x": "y" * (step % 97)}) for step in range(1, n + 1)]
    path.write_text("\n".join([*lines, "no record", '{"step": 5']))
    assert [*read_backwards(path)][::-1] == read_curve(path)
    assert len(read_curve(path)) == n


def test_a_study_that_cannot_be_read_hid_the_runs_of_the_others(write_study: WriteStudy) -> None:
    store = write_study()
    broken = store.path.parent / "broken" / "study.json"
    broken.parent.mkdir()
    os.mkfifo(broken)
    run_id = store.read_study().runs[0].run_id
    assert find_run(store.path.parent, run_id) == (store, run_id)
    with pytest.raises(RecordError, match=r"broken/study\.json: cannot be read: this is a FIFO"):
        find_run(store.path.parent, "none")


@pytest.mark.parametrize(
    "name", ["mlflow.db", "MLflow.db", "mlflow.db-wal", "mlartifacts", "comparison", "campaigns", "a/b", "", "."]
)
def test_a_study_took_the_name_of_a_file_of_ablate(name: str) -> None:
    assert "a study's name has up to 100 letters, digits" in study_name_problem(name)
    assert not study_name_problem("mlflow")


def test_a_number_beyond_any_measurement_ended_status(write_study: WriteStudy) -> None:
    store = write_study()
    folder = store.run(store.read_study().runs[0].run_id)
    lines = ('{"step":1,"val_loss":2.0}', f'{{"step":2,"val_loss":1{"0" * 400}}}', f'{{"step":1{"0" * 40}}}')
    folder.curve.write_text("".join(f"{line}\n" for line in lines))
    folder.write_status(folder.read_status())
    print_status(store, as_json=False)
    assert folder.last_validation() == 2.0
