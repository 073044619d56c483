"""The next report takes unchanged curves from the archive of the last one, and never a wrong number."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ablate.analysis import results as reading
from ablate.analysis.curve_columns import CurveColumns, read_columns
from ablate.analysis.curves_parquet import NAME, is_archived, read_curves, write_archive
from ablate.analysis.results import read_results
from ablate.files import write_atomic
from ablate.report import vega_script
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    """A study with an archive of its curves."""
    store = StudyFolder(tmp_path / "s")
    write_study(store, [SyntheticArm("baseline"), SyntheticArm("fast", speedup=2)], seeds=(0, 1), n_steps=100)
    curve = curves_of(store)[0]
    curve.write_text(
        curve.read_text() + '{"step":100,"val_loss":9}\nno record\n{"step":101,"note":"x","v":1e400}\n{"st'
    )
    store.report.mkdir()
    write_atomic(store.report / NAME, partial(write_archive, read_results(store)))
    return store


def curves_of(store: StudyFolder) -> list[Path]:
    return [store.run(run.run_id).curve for run in store.read_study().runs]


def are_same(one: CurveColumns, other: CurveColumns) -> bool:
    return (
        list(one.columns) == list(other.columns)
        and all(np.array_equal(one.columns[name], other.columns[name], equal_nan=True) for name in one.columns)
        and (one.n_passed_over, one.extent) == (other.n_passed_over, other.extent)
    )


def test_only_curves_that_changed_are_parsed(store: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []

    def note(path: Path) -> CurveColumns:
        parsed.append(path)
        return read_columns(path)

    monkeypatch.setattr(reading, "read_columns", note)
    before = read_study(store)
    assert parsed == []
    changed, gone, *_ = curves_of(store)
    changed.write_bytes(changed.read_bytes().replace(b'"val_loss":5', b'"val_loss":4'))  # of the same length
    gone.unlink()
    after = {run.run_id: run for run in read_study(store).runs}
    assert sorted(parsed) == sorted([changed, gone])
    for run in before.runs:
        path = store.run(run.run_id).curve
        now, expected = after[run.run_id], read_columns(path)
        assert are_same(CurveColumns(now.columns, now.n_passed_over, now.extent), expected)


def test_an_archive_that_says_all_is_not_written_again(store: StudyFolder) -> None:
    path = store.report / NAME
    assert is_archived(read_study(store), path)
    assert not is_archived(read_results(store), path)  # the numbers in it were not checked
    run = store.run(store.read_study().runs[1].run_id)
    status = run.read_status()
    run.write_status(replace(status, took_s=1.0))
    assert not is_archived(read_study(store), path)
    run.write_status(status)
    assert is_archived(read_study(store), path)
    with run.curve.open("a") as curve:
        curve.write('{"step":101}\n')
    assert not is_archived(read_study(store), path)


def test_a_damaged_archive_gives_no_wrong_number(store: StudyFolder) -> None:
    path = store.report / NAME
    content, intact = path.read_bytes(), read_curves(path)
    assert len(intact) == 4
    n_refused = 0
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        found = read_curves(path)
        n_refused += not found
        assert all(are_same(curve, intact[run_id]) for run_id, curve in found.items()), place
    assert n_refused > 100
    for unusable in (b"", content[: len(content) // 2]):
        path.write_bytes(unusable)
        assert read_curves(path) == {}


def test_the_script_of_a_page_is_made_once_and_again_if_its_copy_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = vega_script.read_vega.__wrapped__
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[bytes] = []
    monkeypatch.setattr(vega_script, "_make_script", lambda: made.append(b"") or b"vega\n")
    assert [read(), read()] == ["vega\n"] * 2 and len(made) == 1
    (kept,) = tmp_path.rglob("*.js")
    assert kept.read_bytes() == b"%d\nvega\n" % zlib.crc32(b"vega\n")
    kept.write_bytes(kept.read_bytes()[:-2])
    assert read() == "vega\n" and len(made) == 2 and read() == "vega\n" and len(made) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file, so no folder can be made in it
    assert read() == "vega\n" and len(made) == 3
