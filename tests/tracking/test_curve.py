"""The curve file: appended, cut back, followed, leased."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from ablate.tracking.curve import BusyError, CurveReader, CurveWriter, read_curve


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_curve(path)]


def test_lines_are_appended_and_read(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    with CurveWriter(path) as curve:
        curve.append({"step": 1, "train_loss": 2.5})
        curve.append({"step": 2, "train_loss": math.nan, "val_loss": math.inf})
    assert read_curve(path) == [{"step": 1, "train_loss": 2.5}, {"step": 2, "train_loss": None, "val_loss": None}]


def test_a_resumed_curve_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    with CurveWriter(path) as curve:
        for step in range(1, 6):
            curve.append({"step": step})
    with CurveWriter(path) as curve:
        curve.cut(3)
        curve.append({"step": 4})
    assert steps(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b'{"step": 3, "train', b"\x00\x00\x00\n", b"not json\n", b'{"stop": 3}\n', b"[1]\n"])
def test_a_torn_line_is_passed_over_and_cut(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
    assert steps(path) == [1, 2]
    with CurveWriter(path) as curve:
        curve.cut(10)
        curve.append({"step": 3})
    assert steps(path) == [1, 2, 3]


def test_a_reader_follows_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    reader = CurveReader(path)
    assert reader.read() == []
    with CurveWriter(path) as curve:
        curve.append({"step": 1})
        curve.append({"step": 2})
        assert [record["step"] for record in reader.read()] == [1, 2]
        assert reader.read() == []
        curve.cut(1)
        assert reader.read() == []
        curve.append({"step": 2})
        curve.append({"step": 3})
        assert [record["step"] for record in reader.read()] == [3]


def test_a_reader_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    reader = CurveReader(path)
    assert [record["step"] for record in reader.read()] == [1]
    with path.open("ab") as file:
        file.write(b'ep": 2}\n')
    assert [record["step"] for record in reader.read()] == [2]


def _hold(path: Path, ready: object) -> None:
    with CurveWriter(path):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_the_lease_is_exclusive_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(path, ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(BusyError):
        CurveWriter(path)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    CurveWriter(path).close()
