import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.analysis import read_results, results
from ablate.analysis.checked_records import clean, read_document
from ablate.analysis.curve_columns import CORE_COLUMNS, read_columns
from ablate.errors import RecordError
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


@pytest.fixture(params=[0, 2**20], ids=["as a block", "line by line"])
def curve(tmp_path, request, monkeypatch):
    monkeypatch.setattr("ablate.analysis.curve_columns._SMALL_BYTES", request.param)

    def write(*lines, end="\n"):
        path = tmp_path / "curve.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)
        return path

    return write


def test_columns_are_numbers_with_nan_where_a_line_lacks_the_key(curve):
    lines = ({"step": 1, "train_loss": 3}, {"step": 2, "train_loss": 2.5, "val_loss": 2.75, "s_z": 1})
    columns = read_columns(curve(*lines)).columns
    assert columns["step"].tolist() == [1, 2]
    assert columns["train_loss"].tolist() == [3, 2.5]
    assert np.isnan(columns["val_loss"][0]) and columns["val_loss"][1] == 2.75
    assert np.isnan(columns["s_z"][0]) and columns["s_z"][1] == 1
    assert set(columns) == {*CORE_COLUMNS, "s_z"}


def test_a_half_written_last_line_is_passed_over(curve):
    assert read_columns(curve({"step": 1, "val_loss": 2}, '{"step":2,"val', end="")).columns["val_loss"].tolist() == [2]


def test_a_torn_line_inside_costs_that_line_alone(curve):
    columns = read_columns(
        curve({"step": 1, "val_loss": 3}, '{"step":2,"va', {"step": 3, "val_loss": 1, "note": "x"})
    ).columns
    assert columns["step"].tolist() == [1, 3]
    assert columns["val_loss"].tolist() == [3, 1]
    assert "note" not in columns


def test_a_line_without_a_step_is_passed_over(curve):
    assert read_columns(curve({"step": 1, "val_loss": 3}, {"val_loss": 9}, {"step": 2})).columns["step"].tolist() == [
        1,
        2,
    ]


def test_a_repeated_step_counts_once(curve):
    lines = [{"step": step, "val_loss": loss} for step, loss in ((1, 5), (2, 4), (2, 9), (1, 9), (3, 3))]
    columns = read_columns(curve(*lines)).columns
    assert columns["step"].tolist() == [1, 2, 3]
    assert columns["val_loss"].tolist() == [5, 4, 3]


def test_null_text_and_huge_integers(curve):
    columns = read_columns(
        curve({"step": 1, "val_loss": None, "flops": 10**25, "device": "cpu", "map": [1, 2]})
    ).columns
    assert np.isnan(columns["val_loss"]).all()
    assert columns["flops"].tolist() == [1e25]
    assert "device" not in columns or np.isnan(columns["device"]).all()


LINES = (
    '{"step": 0, "train_loss": NaN, "tokens": NaN}',
    '{"step": 1, "train_loss": Infinity}',
    '{"step": 1, "wall_s": -NaN}',
    '{"step": 1, "learning_rate": 1' + "0" * 5000 + "}",
    '{"step": 2, "flops": 1' + "0" * 5000 + "}",
    '{"step": 1, "x": -Infinity}',
    '{"step": 1, "s": "\udcff"}',  # not UTF-8
    '{"step": 1, "train_loss": 3, "val_loss": null, "s_z": true}',
    '{"step": 2.5, "train_loss": 3}',
    '{"step": 3, "train_loss": 1e101, "x": 1}',
    '{"step": 4, "train_loss": 1e400}',
    '{"step": 5, "x": "text"}',
    '{"step": 6, "x": NaN, "y": 1e101}',
    '{"step": 7, "tokens": -5}',
    '{"step": 8, "x\\u0007": 2, "x\\ufffd": 3}',
    '{"step": 9, "val_loss": {"a": 1}}',
    '{"step": 6, "train_loss": 9}',
    '{"step": 12345678901234567890}',
    '{"step": 10, "train_loss": 2, "arm": 3}',
    "  ",
    '{"step": 11',
)


@given(st.lists(st.sampled_from(LINES), max_size=6))
def test_lines_mean_the_same_one_by_one_and_as_a_block(lines):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "curve.jsonl")
        path.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
        ways = []
        for small in (0, 2**20):
            patch.setattr("ablate.analysis.curve_columns._SMALL_BYTES", small)
            ways.append(read_columns(path))
    block, single = ways
    assert (block.n_passed_over, block.extent) == (single.n_passed_over, single.extent)
    assert block.columns.keys() == single.columns.keys()
    for name, values in block.columns.items():
        np.testing.assert_array_equal(values, single.columns[name])


@pytest.mark.parametrize(
    "value", ["plain", "\N{REPLACEMENT CHARACTER}", "\x7f", "\x85", "\b", "\r", "\ud800", "a\nb", [[["deep"]] * 40]]
)
def test_a_document_without_anything_to_replace_is_read_as_it_is(tmp_path, value):
    path = tmp_path / "config.json"
    for is_ascii in (True, False):
        path.write_bytes(json.dumps({"key": value}, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass"))
        with contextlib.suppress(RecordError):  # a lone surrogate is not UTF-8
            assert read_document(path) == clean({"key": value})


@pytest.mark.parametrize("content", ["", "\n", "not json\n", "[1]\n"])
def test_an_empty_or_useless_curve_has_no_lines(tmp_path, content):
    path = tmp_path / "curve.jsonl"
    path.write_text(content)
    assert {name: values.size for name, values in read_columns(path).columns.items()} == dict.fromkeys(CORE_COLUMNS, 0)


def test_a_curve_that_cannot_be_read_is_one_message(tmp_path):
    with pytest.raises(RecordError, match="cannot be read"):
        read_columns(tmp_path)


def test_results_hold_every_run_and_one_without_a_folder_is_queued(tmp_path):
    store = StudyFolder(tmp_path / "s")
    study = write_study(store, [SyntheticArm("baseline"), SyntheticArm("fast", speedup=2)], seeds=(0, 1))
    lost = next(run for run in study.runs if (run.arm, run.seed) == ("fast", 1))
    for file in store.run(lost.run_id).path.iterdir():
        file.unlink()
    store.run(lost.run_id).path.rmdir()
    results = read_results(store)
    states = {(run.arm, run.seed): run.status.state for run in results.runs}
    assert states == {
        ("baseline", 0): "finished",
        ("baseline", 1): "finished",
        ("fast", 0): "finished",
        ("fast", 1): "queued",
    }
    assert [run.seed for run in results.ended_runs("fast")] == [0]
    assert results.compared_arms == ("fast",)


def test_runs_on_a_slow_disk_are_read_together(tmp_path, monkeypatch):
    store = StudyFolder(tmp_path / "s")
    study = write_study(store, [SyntheticArm("baseline")], seeds=range(40), n_steps=40)
    readers, read = set(), results.read_run

    def wait_and_read(*arguments):
        readers.add(threading.get_ident())
        time.sleep(0.01)
        return read(*arguments)

    monkeypatch.setattr(results, "read_run", wait_and_read)
    found = read_results(store)
    assert len(readers) > 2 and [run.run_id for run in found.runs] == [run.run_id for run in study.runs]


def test_the_frame_has_one_row_a_run_and_step(tmp_path):
    store = StudyFolder(tmp_path / "s")
    write_study(
        store, [SyntheticArm("baseline"), SyntheticArm("fast")], seeds=(0, 1), n_steps=40, eval_every=20, log_every=10
    )
    frame = read_results(store).frame()
    assert frame.groupby(["arm", "seed"])["step"].apply(list).tolist() == [[10, 20, 30, 40]] * 4
    assert frame["step"].dtype == np.int64
    assert frame["val_loss"].notna().sum() == 8


def test_a_run_of_an_unknown_arm_is_refused(tmp_path):
    store = StudyFolder(tmp_path / "s")
    write_study(store, [SyntheticArm("baseline")], seeds=(0,))
    record = json.loads(store.record.read_text())
    record["runs"][0]["arm"] = "ghost"
    store.record.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="ghost"):
        read_results(store)


def test_no_study_is_one_message_with_the_nearest_name(tmp_path):
    write_study(StudyFolder(tmp_path / "quickstart"), [SyntheticArm("baseline")], seeds=(0,))
    with pytest.raises(RecordError, match="did you mean 'quickstart'"):
        read_results(StudyFolder(tmp_path / "quickstrat"))
